package check_test

import (
	"bytes"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/persistence"
)

var ids = check.NewIds(7)

// run is a run without a fault: three commands to each of two lists of one
// partition, the second half under another owner, and what its clients know.
type run struct {
	commands []check.Command
	events   []persistence.Event
	tenures  []check.Tenure
	rows     []persistence.Ownership
}

func newRun() *run {
	r := &run{
		tenures: []check.Tenure{{Partition: 0, Epoch: 1, Owner: "a"}, {Partition: 0, Epoch: 2, Owner: "b"}},
		rows:    []persistence.Ownership{{Partition: 0, Epoch: 2, Owner: "b"}},
	}
	for i := range 6 {
		seq, owner, epoch := uint64(i+1), "a", persistence.Epoch(1)
		if i >= 3 {
			owner, epoch = "b", 2
		}
		stream := persistence.Stream{Type: "list", ID: fmt.Sprint("l", i%2)}
		r.events = append(r.events, persistence.Event{
			Offset: persistence.Offset(i + 1), Epoch: epoch, Stream: stream, Version: persistence.Version(i/2 + 1),
			Command: persistence.CommandID(ids.ID(seq, 0, time.Unix(1_700_000_000, 0))), At: time.Unix(1_700_000_000, int64(i)),
		})
		r.commands = append(r.commands, check.Command{
			Seq: seq, Return: int64(1000 + i), Version: int64(i/2 + 1), Offset: int64(i + 1), Stream: check.Hash(stream.String()),
			Node: check.Hash(owner), Events: 1, Outcome: check.OK,
		})
	}
	return r
}

func (r *run) judge(t *testing.T) *check.Report {
	t.Helper()
	var report check.Report
	n, err := check.Effects(ids, r.commands, &check.Log{Events: values(r.events), Tenures: r.tenures, Partitions: r.rows}, &report)
	require.NoError(t, err)
	require.Equal(t, len(r.events), n)
	return &report
}

func values(events []persistence.Event) iter.Seq2[persistence.Event, error] {
	return func(yield func(persistence.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestARunWithoutFaultHasNoViolation(t *testing.T) {
	require.Zero(t, newRun().judge(t).Total())
}

// Whatever may happen to an honest cluster is no violation.
func TestWhatMayHappenIsNoViolation(t *testing.T) {
	for what, change := range map[string]func(*run){
		"an unknown outcome that took effect": func(r *run) { r.commands[5] = check.Command{Seq: 6, Outcome: check.Unknown} },
		"an unknown outcome that did not":     func(r *run) { r.drop(5); r.commands[5] = check.Command{Seq: 6, Outcome: check.Unknown} },
		"a failure":                           func(r *run) { r.drop(5); r.commands[5] = check.Command{Seq: 6, Outcome: check.Failed} },
		"a rejection after an unknown attempt": func(r *run) {
			r.commands[5] = check.Command{Seq: 6, Outcome: check.Rejected, Uncertain: true}
		},
		"an acknowledgement without an event": func(r *run) { r.drop(5); r.commands[5].Events = 0 },
		"the receipt of another node's work":  func(r *run) { r.commands[0].Duplicate, r.commands[0].Node = true, check.Hash("b") },
		"an answer of nobody in particular":   func(r *run) { r.commands[0].Node = 0 },
		"events from before the run":          func(r *run) { r.events[0].Command, r.commands[0].Outcome = [16]byte{1}, check.Failed },
		"several events of one command": func(r *run) {
			r.events[5].Command = [16]byte{9} // the checker of effects knows commands of one event
			second := r.events[5]
			second.Offset, second.Version = 7, 4
			r.events = append(r.events, second)
			r.commands[5] = check.Command{Seq: 6, Outcome: check.Unknown}
		},
	} {
		r := newRun()
		change(r)
		require.Zero(t, r.judge(t).Total(), "%s: %v", what, r.judge(t).Kept)
	}
}

// drop takes the last event out of the log.
func (r *run) drop(at int) { r.events = slices.Delete(r.events, at, at+1) }

func TestPlantedViolationsAreFound(t *testing.T) {
	for what, c := range map[string]struct {
		plant func(*run)
		kind  check.Kind
	}{
		"an acknowledged command is not in the log": {func(r *run) { r.drop(5) }, check.Lost},
		"an acknowledged command is there twice under one id": {func(r *run) {
			r.again(r.events[5].Command)
		}, check.Duplicated},
		"an acknowledged command is there twice, under the id of another attempt": {func(r *run) {
			r.again(persistence.CommandID(ids.ID(6, 1, time.Now())))
		}, check.Duplicated},
		"a command of unknown outcome is there twice": {func(r *run) {
			r.commands[5] = check.Command{Seq: 6, Outcome: check.Unknown}
			r.again(r.events[5].Command)
		}, check.Duplicated},
		"the same id in another stream": {func(r *run) {
			r.events[5].Command = r.events[4].Command
			r.commands[5] = check.Command{Seq: 6, Outcome: check.Failed}
		}, check.Duplicated},
		"a failed command is in the log": {func(r *run) {
			r.commands[5] = check.Command{Seq: 6, Outcome: check.Failed}
		}, check.Phantom},
		"a rejected command is in the log": {func(r *run) {
			r.commands[5] = check.Command{Seq: 6, Outcome: check.Rejected}
		}, check.Phantom},
		"the receipt names another offset":  {func(r *run) { r.commands[5].Offset = 5 }, check.Misplaced},
		"the receipt names another version": {func(r *run) { r.commands[5].Version = 4 }, check.Misplaced},
		"it went to another stream":         {func(r *run) { r.commands[5].Stream++ }, check.Misplaced},
		"the deposed owner answered":        {func(r *run) { r.commands[5].Node = check.Hash("a") }, check.Dual},
		"an event that nobody asked for":    {func(r *run) { r.commands = r.commands[:5] }, check.Foreign},
		"an event without an outcome":       {func(r *run) { r.commands[5].Outcome = check.Pending }, check.Foreign},
		"a hole in the offsets":             {func(r *run) { r.events[5].Offset, r.commands[5].Offset = 7, 7 }, check.Gap},
		"a hole in the versions":            {func(r *run) { r.events[5].Version, r.commands[5].Version = 4, 4 }, check.Gap},
		"a version twice":                   {func(r *run) { r.events[5].Version, r.commands[5].Version = 2, 2 }, check.Gap},
		"an epoch that falls":               {func(r *run) { r.events[5].Epoch, r.commands[5].Node = 1, check.Hash("a") }, check.Epoch},
		"an epoch with two owners": {func(r *run) {
			r.tenures = append(r.tenures, check.Tenure{Partition: 0, Epoch: 2, Owner: "c"})
		}, check.Owner},
		"an epoch without an owner":   {func(r *run) { r.tenures[1].Owner, r.rows[0].Owner = "", "" }, check.Owner},
		"a row that is not on record": {func(r *run) { r.rows[0].Owner = "c" }, check.Owner},
		"a row ahead of the record":   {func(r *run) { r.rows[0].Epoch = 3 }, check.Owner},
		"an epoch that is not on record": {func(r *run) {
			r.tenures[1].Epoch, r.rows[0].Epoch = 3, 3
			for i := 3; i < 6; i++ {
				r.events[i].Epoch = 3
			}
		}, check.Gap},
	} {
		r := newRun()
		c.plant(r)
		report := r.judge(t)
		require.Positive(t, report.Counts[c.kind], "%s: %v", what, report.Kept)
	}
}

// again appends one more event of the last stream, under a command id.
func (r *run) again(id persistence.CommandID) {
	e := r.events[5]
	e.Offset, e.Version, e.Command = 7, 4, id
	r.events = append(r.events, e)
}

func TestANameWithTwoHoldersIsFound(t *testing.T) {
	named := func(change func(*run)) *check.Report {
		r := newRun()
		name := check.Hash(r.events[1].Stream.String())
		for _, i := range []int{1, 3, 5} { // those of one stream
			r.commands[i].Claim = true
			if i > 1 {
				r.commands[i] = check.Command{Seq: uint64(i + 1), Claim: true, Outcome: check.Rejected, Value: 2, Stream: name, Uncertain: true}
			}
		}
		for _, i := range []int{5, 3} {
			r.drop(i)
		}
		for i := range r.events { // the other stream's events move up
			r.events[i].Offset = persistence.Offset(i + 1)
		}
		r.commands[4].Offset = 4
		change(r)
		return r.judge(t)
	}
	require.Zero(t, named(func(*run) {}).Total())
	require.Positive(t, named(func(r *run) { r.commands[3].Value = 6 }).Counts[check.Claimed], "a claimer was told of another holder")
	require.Positive(t, named(func(r *run) {
		e := r.events[1]
		e.Offset, e.Version, e.Epoch, e.Command = 5, 2, 2, persistence.CommandID(ids.ID(6, 0, time.Now()))
		r.events = append(r.events, e)
	}).Counts[check.Claimed], "two claims took effect")
}

func TestAnErrorOfTheLogIsAnError(t *testing.T) {
	failing := check.Tail(func(persistence.Cursor) ([]persistence.Event, error) { return nil, fmt.Errorf("no store") }, 1)
	_, err := check.Effects(ids, nil, &check.Log{Events: failing}, &check.Report{})
	require.ErrorContains(t, err, "partition 0: no store")
}

func TestTailReadsEveryPartitionInPages(t *testing.T) {
	all := map[persistence.Partition][]persistence.Event{}
	for p := range persistence.Partition(3) {
		for o := range persistence.Offset(5) {
			all[p] = append(all[p], persistence.Event{Partition: p, Offset: o + 1})
		}
	}
	var got []persistence.Event
	for e, err := range check.Tail(func(c persistence.Cursor) ([]persistence.Event, error) {
		rest := all[c.Partition][c.After:]
		return rest[:min(2, len(rest))], nil
	}, 3) {
		require.NoError(t, err)
		got = append(got, e)
	}
	require.Equal(t, slices.Concat(all[0], all[1], all[2]), got)
}

func TestLedgerGivesBackWhatItTook(t *testing.T) {
	var file bytes.Buffer
	ledger := check.NewLedger(&file)
	third := check.Command{Seq: 3, Call: 1, Return: 2, Version: 3, Offset: 4, Stream: 5, Node: 6, Value: 7, Partition: 8, Events: 9, Outcome: check.Rejected, Uncertain: true, Duplicate: true, Claim: true}
	first := check.Command{Seq: 1, Outcome: check.OK}
	require.NoError(t, ledger.Add(&third))
	require.NoError(t, ledger.Add(&first))
	whole := file.Bytes()
	table, err := check.ReadLedger(bytes.NewReader(whole), 3)
	require.NoError(t, err)
	require.Equal(t, []check.Command{first, {}, third}, table)

	_, err = check.ReadLedger(bytes.NewReader(whole), 2)
	require.ErrorContains(t, err, "command 3 of 2")
	_, err = check.ReadLedger(bytes.NewReader(slices.Concat(whole, whole)), 3)
	require.ErrorContains(t, err, "ended twice")
	_, err = check.ReadLedger(bytes.NewReader(whole[:len(whole)-1]), 3)
	require.Error(t, err)
}

func TestIdsTellTheirCommandAndTheirRun(t *testing.T) {
	now := time.Now()
	for _, attempt := range []int{0, 1, 5000} {
		id := ids.ID(1<<39+5, attempt, now)
		seq, ours := ids.Seq(id)
		require.True(t, ours)
		require.EqualValues(t, 1<<39+5, seq)
		require.Equal(t, now.UnixMilli(), id.Time().UnixMilli())
		parsed, err := id.MarshalText()
		require.NoError(t, err)
		require.NoError(t, id.UnmarshalText(parsed), "it is a UUID of version 7")
		_, ours = check.NewIds(8).Seq(id)
		require.False(t, ours)
		_, ours = check.Ids{}.Seq(id)
		require.False(t, ours)
	}
	require.NotEqual(t, ids.ID(1, 0, now), ids.ID(1, 1, now))
	require.Equal(t, ids.ID(1, 1, now), ids.ID(1, 1, now))
}

// What a run of a million commands needs must fit into any machine.
func TestAMillionCommandsAreCheckedInBoundedMemory(t *testing.T) {
	const count, streams = 1_000_000, 50_000
	commands := make([]check.Command, count)
	names := make([]persistence.Stream, streams)
	for i := range names {
		names[i] = persistence.Stream{Type: "list", ID: fmt.Sprint(i)}
	}
	at := time.Now()
	event := func(i int) persistence.Event {
		return persistence.Event{
			Offset: persistence.Offset(i + 1), Epoch: 1, Stream: names[i%streams], Version: persistence.Version(i/streams + 1),
			Command: persistence.CommandID(ids.ID(uint64(i+1), 0, at)), At: at,
		}
	}
	for i := range commands {
		e := event(i)
		commands[i] = check.Command{
			Seq: uint64(i + 1), Outcome: check.OK, Events: 1, Offset: int64(e.Offset), Version: int64(e.Version),
			Stream: check.Hash(e.Stream.String()), Node: check.Hash("a"),
		}
	}
	log := &check.Log{
		Tenures: []check.Tenure{{Epoch: 1, Owner: "a"}},
		Events: func(yield func(persistence.Event, error) bool) {
			for i := range count {
				if !yield(event(i), nil) {
					return
				}
			}
		},
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var report check.Report
	n, err := check.Effects(ids, commands, log, &report)
	require.NoError(t, err)
	require.Equal(t, count, n)
	require.Zero(t, report.Total())
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapSys, before.HeapSys+300<<20, "bytes")
}
