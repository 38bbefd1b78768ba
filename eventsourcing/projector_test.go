package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

const patience = 20 * time.Second

// ledgerOfTest is a log with its owners, who append as they are told.
type ledgerOfTest struct {
	t      *testing.T
	store  persistence.Store
	mu     sync.Mutex
	fences map[persistence.Partition]persistence.Fence
	owners map[persistence.Partition]persistence.NodeID
	at     map[string]persistence.Version
	placed map[string]persistence.Offset // of the last event, by id
	told   []*Projector
	lose   func(events []persistence.Event) bool // a push that is lost
}

func newLedger(t *testing.T, store persistence.Store) *ledgerOfTest {
	t.Helper()
	l := &ledgerOfTest{
		t: t, store: store, fences: map[persistence.Partition]persistence.Fence{}, owners: map[persistence.Partition]persistence.NodeID{},
		at: map[string]persistence.Version{}, placed: map[string]persistence.Offset{},
	}
	for _, id := range []persistence.NodeID{"a", "b"} {
		require.NoError(t, store.Join(t.Context(), persistence.Node{ID: id, Cluster: "test", State: persistence.Active}))
	}
	for p := range store.Meta().Partitions {
		l.claim(persistence.Partition(p), "a")
	}
	return l
}

func memoryStore(t *testing.T, partitions int) persistence.Store {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	return store
}

// onSQL runs a test on the stores that have SQL.
func onSQL(t *testing.T, test func(t *testing.T, store persistence.Store)) {
	t.Run("sqlite", func(t *testing.T) {
		store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: 8})
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		test(t, store)
	})
	t.Run("postgres", func(t *testing.T) {
		store, err := postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: 8})
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		test(t, store)
	})
}

// claim gives a partition to a node.
func (l *ledgerOfTest) claim(p persistence.Partition, node persistence.NodeID) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	won, err := l.store.Claim(context.Background(), p, l.fences[p].Epoch, node)
	require.NoError(l.t, err)
	l.fences[p] = persistence.Fence{Partition: p, Epoch: won.Epoch, Head: won.Head}
	l.owners[p] = node
}

// owned is what a projector on a node is told.
func (l *ledgerOfTest) owned(node persistence.NodeID) func(persistence.Partition) (persistence.NodeID, persistence.Epoch) {
	return func(p persistence.Partition) (persistence.NodeID, persistence.Epoch) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.owners[p] != node {
			return "", 0
		}
		return node, l.fences[p].Epoch
	}
}

// deposit appends one event and tells of it.
func (l *ledgerOfTest) deposit(id string, cents int64) { l.record(id, deposited{Cents: cents}) }

func (l *ledgerOfTest) record(id string, values ...any) {
	l.t.Helper()
	var events []persistence.NewEvent
	for _, v := range values {
		if raw, ok := v.(persistence.NewEvent); ok {
			events = append(events, raw)
			continue
		}
		events = append(events, encoded(l.t, v))
	}
	l.mu.Lock()
	s := streamOf(id)
	p := persistence.PartitionOf(s, l.store.Meta().Partitions)
	f := l.fences[p]
	c := &persistence.Commit{
		Stream: s, Partition: p, Epoch: f.Epoch, Expected: l.at[id], At: time.Now(),
		Command: persistence.CommandID(aggregate.NewCommandID()), Events: events,
	}
	l.store.Append(context.Background(), &persistence.Batch{Owner: l.owners[p], Fences: []persistence.Fence{f}, Commits: []*persistence.Commit{c}})
	require.NoError(l.t, c.Err)
	f.Head += persistence.Offset(len(events))
	l.fences[p] = f
	l.at[id] += persistence.Version(len(events))
	l.placed[id] = f.Head
	var durable []persistence.Event
	for i, e := range events {
		durable = append(durable, persistence.Event{
			Partition: p, Offset: c.Offset + persistence.Offset(i), Epoch: f.Epoch, Stream: s, Version: c.Expected + persistence.Version(i) + 1,
			Type: e.Type, At: c.At, Command: c.Command, Payload: e.Payload,
		})
	}
	told, lose := l.told, l.lose
	l.mu.Unlock()
	if lose != nil && lose(durable) {
		return
	}
	for _, p := range told {
		p.Publish(durable)
	}
}

// project starts a projector on a node that is told of everything.
func (l *ledgerOfTest) project(node persistence.NodeID, change func(*ProjectorConfig), projections ...Projection) *Projector {
	l.t.Helper()
	config := ProjectorConfig{
		Store: l.store, Projections: projections, Owned: l.owned(node), Poll: 10 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&config)
	}
	p, err := StartProjector(config)
	require.NoError(l.t, err)
	l.t.Cleanup(func() { p.Stop(context.Background()) })
	l.mu.Lock()
	defer l.mu.Unlock()
	for partition, owner := range l.owners {
		if owner == node {
			p.Own(partition, l.fences[partition].Head)
		}
	}
	l.told = append(l.told, p)
	return p
}

// wait waits until a projection has seen all that was recorded.
func (l *ledgerOfTest) wait(p *Projector, name string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.mu.Lock()
	heads := map[persistence.Partition]persistence.Offset{}
	for partition, f := range l.fences {
		heads[partition] = f.Head
	}
	l.mu.Unlock()
	for partition, head := range heads {
		require.NoError(l.t, p.Wait(ctx, name, partition, head), "%+v", p.Progress())
	}
}

// sums is a view of what each account was given, and in which order.
type sums struct {
	cents map[string]int64
	order map[string][]int64
}

func newSums() *sums { return &sums{map[string]int64{}, map[string][]int64{}} }

func (s *sums) add(_ context.Context, e deposited, f Fact) error {
	s.cents[f.ID] += e.Cents
	s.order[f.ID] = append(s.order[f.ID], int64(f.Version))
	return nil
}

func sumView(s Settings) *View[sums] {
	return NewView(s, newSums, On(accounts, func(ctx context.Context, s *sums, e deposited, f Fact) error { return s.add(ctx, e, f) }))
}

func TestViewIsTheFoldOfTheLogWhateverPushesAreLost(t *testing.T) {
	l := newLedger(t, memoryStore(t, 8))
	for i := range 300 {
		l.deposit(fmt.Sprint("before", i%20), 1)
	}
	view := sumView(Settings{Name: "sums"})
	caughtUp := make(chan struct{})
	p := l.project("a", func(c *ProjectorConfig) {
		c.Backlog = 16
		c.OnCaughtUp = func() { close(caughtUp) }
	}, view)
	<-caughtUp
	require.True(t, p.CaughtUp())
	view.Read(func(s *sums) { require.Equal(t, int64(15), s.cents["before3"]) })

	n := 0
	l.lose = func(e []persistence.Event) bool { n++; return n%10 == 3 || n > 1990 } // the last ones are lost, too
	for i := range 2000 {
		l.record(fmt.Sprint("acc", i%50), deposited{Cents: 1}, deposited{Cents: 2})
		if i%7 == 0 { // a push that comes again changes nothing
			p.Publish(readPartition(t, l, fmt.Sprint("acc", i%50)))
		}
	}
	l.wait(p, "sums")
	l.lose = func([]persistence.Event) bool { return true } // nothing follows by which it would be noticed
	for i := range 50 {
		l.deposit(fmt.Sprint("acc", i), 5)
	}
	l.wait(p, "sums")
	view.Read(func(s *sums) {
		for i := range 50 {
			id := fmt.Sprint("acc", i)
			require.Equal(t, int64(125), s.cents[id], id)
			for k, version := range s.order[id] {
				require.Equal(t, int64(k+1), version, "in order, without gaps or repeats")
			}
		}
	})
}

func readPartition(t *testing.T, l *ledgerOfTest, id string) []persistence.Event {
	events, err := l.store.Tail(t.Context(), []persistence.Cursor{{Partition: persistence.PartitionOf(streamOf(id), 8)}}, 10)
	require.NoError(t, err)
	return events
}

// schema of the tables of the tests
var balances = Schema{
	Create: func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+tx.Name("balances")+" (id TEXT PRIMARY KEY, cents BIGINT NOT NULL, events BIGINT NOT NULL)")
		return err
	},
	Drop: func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+tx.Name("balances"))
		return err
	},
}

// placeholders writes $1, $2 as the store wants them.
func placeholders(store persistence.Store, sql string) string {
	if _, ok := store.(*sqlite.Store); ok {
		for i := range 9 {
			sql = strings.ReplaceAll(sql, fmt.Sprintf("$%d", i+1), "?")
		}
	}
	return sql
}

// addTo adds one event to a row.
func addTo(store persistence.Store) func(ctx context.Context, tx *Tx, e deposited, f Fact) error {
	return func(ctx context.Context, tx *Tx, e deposited, f Fact) error {
		name := tx.Name("balances")
		_, err := tx.Exec(ctx, placeholders(store, "INSERT INTO "+name+" (id, cents, events) VALUES ($1, $2, 1) "+
			"ON CONFLICT (id) DO UPDATE SET cents = "+name+".cents + excluded.cents, events = "+name+".events + 1"), f.ID, e.Cents)
		return err
	}
}

type row struct{ Cents, Events int64 }

// rowsOf reads a table of the tests.
func rowsOf(t *testing.T, store persistence.Store, name string) map[string]row {
	t.Helper()
	rows := map[string]row{}
	require.NoError(t, store.Advance(t.Context(), persistence.Step{Projection: "reader"}, func(ctx context.Context, tx persistence.Tx) error {
		found, err := tx.Query(ctx, "SELECT id, cents, events FROM "+name)
		if err != nil {
			return err
		}
		for found.Next() {
			var id string
			var r row
			if err := found.Scan(&id, &r.Cents, &r.Events); err != nil {
				return err
			}
			rows[id] = r
		}
		return found.Close()
	}))
	return rows
}

func TestTableHasEachEventOnceWhileItsOwnersChange(t *testing.T) {
	onSQL(t, func(t *testing.T, store persistence.Store) {
		l := newLedger(t, store)
		table := func() *Table {
			return NewTable(Settings{Name: "balances", Batch: 7, Parallel: 2}, balances, On(accounts, addTo(store)))
		}
		tables := []*Table{table(), table()}
		a := l.project("a", nil, tables[0])
		b := l.project("b", nil, tables[1])
		projectors := map[persistence.NodeID]*Projector{"a": a, "b": b}
		for i := range 400 {
			l.deposit(fmt.Sprint("acc", i%20), int64(i))
			if i%10 == 0 { // a partition changes hands, with or without a goodbye
				p := persistence.Partition(i / 10 % 8)
				from, to := l.owners[p], persistence.NodeID("a")
				if from == "a" {
					to = "b"
				}
				if i%20 == 0 {
					projectors[from].Release(t.Context(), p)
				}
				l.claim(p, to)
				projectors[to].Own(p, l.fences[p].Head)
			}
		}
		l.wait(a, "balances")
		rows := rowsOf(t, store, tables[0].Name("balances"))
		want := map[string]row{}
		for i := range 400 {
			id := fmt.Sprint("acc", i%20)
			want[id] = row{want[id].Cents + int64(i), want[id].Events + 1}
		}
		require.Equal(t, want, rows)
	})
}

var errPoison = errors.New("this cannot be handled")

func TestPoisonParksItsSequenceAndNoOther(t *testing.T) {
	onSQL(t, func(t *testing.T, store persistence.Store) {
		l := newLedger(t, store)
		var cured atomic.Bool
		var tried atomic.Int64
		add := addTo(store)
		table := NewTable(Settings{Name: "balances", Attempts: 3, Backoff: time.Millisecond}, balances,
			On(accounts, func(ctx context.Context, tx *Tx, e deposited, f Fact) error {
				if err := add(ctx, tx, e, f); err != nil {
					return err
				}
				if e.Note == "poison" {
					tried.Add(1)
					if !cured.Load() {
						return errPoison
					}
				}
				if e.Note == "panic" && !cured.Load() {
					panic("no")
				}
				return nil
			}))
		p := l.project("a", nil, table)
		l.record("ill", deposited{Cents: 1}, deposited{Cents: 2, Note: "poison"}, deposited{Cents: 4}, persistence.NewEvent{Type: "deposited", Payload: []byte(`{"Dollars":1}`)})
		l.record("mad", deposited{Cents: 8, Note: "panic"})
		for i := range 50 {
			l.deposit(fmt.Sprint("well", i%10), 1)
		}
		l.wait(p, "balances")
		rows := rowsOf(t, store, table.Name("balances"))
		require.Equal(t, row{1, 1}, rows["ill"])
		require.Equal(t, row{5, 5}, rows["well3"])
		require.NotContains(t, rows, "mad")
		require.Equal(t, int64(3), tried.Load())

		letters, err := p.DeadLetters(t.Context(), "balances", persistence.DeadLetterKey{}, 100)
		require.NoError(t, err)
		causes := map[string][]string{}
		for _, letter := range letters {
			causes[letter.Sequence] = append(causes[letter.Sequence], fmt.Sprint(letter.Attempts, " ", letter.Cause))
		}
		require.Equal(t, map[string][]string{
			"account/ill": {"3 " + errPoison.Error(), "0 " + errBehind.Error(), "0 " + errBehind.Error()},
			"account/mad": {"3 panic: no"},
		}, causes)
		require.Equal(t, 4, p.Progress()[0].Parked)

		require.ErrorContains(t, p.Retry(t.Context(), "balances", "account/ill"), errPoison.Error(), "it is still ill")
		require.Equal(t, int64(4), tried.Load(), "once more, no oftener")
		cured.Store(true)
		l.deposit("ill", 16) // behind the others
		require.NoError(t, p.Retry(t.Context(), "balances", "account/ill"))
		require.NoError(t, p.Skip(t.Context(), "balances", "account/mad"))
		require.ErrorIs(t, p.Skip(t.Context(), "balances", "account/mad"), ErrNoLetter)
		require.Eventually(t, func() bool {
			letters, err := p.DeadLetters(t.Context(), "balances", persistence.DeadLetterKey{}, 1)
			return err == nil && len(letters) == 0
		}, patience, 5*time.Millisecond, "those behind follow by themselves")
		l.deposit("ill", 32)
		l.deposit("mad", 64)
		require.Eventually(t, func() bool {
			rows = rowsOf(t, store, table.Name("balances"))
			return rows["ill"] == row{1 + 2 + 4 + 100 + 16 + 32, 6} && rows["mad"] == row{64, 1}
		}, patience, 5*time.Millisecond, "upcasts are applied to letters: %v", rows)
	})
}

func TestLocalIsHandledWhenPublishReturns(t *testing.T) {
	l := newLedger(t, memoryStore(t, 8))
	model := newSums()
	local := NewLocal(Settings{Name: "local"}, model, On(accounts, func(ctx context.Context, s *sums, e deposited, f Fact) error { return s.add(ctx, e, f) }))
	p := l.project("a", nil, local)
	for i := range 1000 {
		id := fmt.Sprint("acc", i%10)
		l.deposit(id, 1)
		local.guard.Lock()
		require.Equal(t, int64(i/10+1), model.cents[id], "event %d", i)
		local.guard.Unlock()
	}
	p.Stop(t.Context())
	stored, err := p.checkpoints(t.Context(), "local@1")
	require.NoError(t, err)
	for partition, f := range l.fences {
		require.Equal(t, f.Head, stored[partition], "Stop stores how far it is")
	}
	l.told = nil
	l.deposit("acc1", 5) // while nobody is there
	again := newSums()
	next := l.project("a", nil, NewLocal(Settings{Name: "local"}, again, On(accounts, func(ctx context.Context, s *sums, e deposited, f Fact) error { return s.add(ctx, e, f) })))
	l.wait(next, "local")
	require.Equal(t, map[string]int64{"acc1": 5}, again.cents, "nothing that is committed stays unhandled, and nothing is handled again")
}

// flaky is a store that refuses steps when it is told to.
type flaky struct {
	persistence.Store
	down atomic.Bool
	drop func(e *persistence.Event) bool // events that Tail does not show
}

func (f *flaky) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	if f.down.Load() {
		return errDown
	}
	return f.Store.Advance(ctx, step, work)
}

func (f *flaky) LoadCheckpoints(ctx context.Context, name string) ([]persistence.Cursor, error) {
	if f.down.Load() {
		return nil, errDown
	}
	return f.Store.LoadCheckpoints(ctx, name)
}

func (f *flaky) Tail(ctx context.Context, cursors []persistence.Cursor, limit int) ([]persistence.Event, error) {
	events, err := f.Store.Tail(ctx, cursors, limit)
	if f.drop == nil {
		return events, err
	}
	kept := events[:0]
	for i := range events {
		if !f.drop(&events[i]) {
			kept = append(kept, events[i])
		}
	}
	return kept, err
}

func TestAnOutageIsNobodysFaultAndRepeatsNoEffect(t *testing.T) {
	store := &flaky{Store: memoryStore(t, 4)}
	l := newLedger(t, store)
	var mu sync.Mutex
	times := map[int64]int{}
	reaction := func() *Reaction {
		return NewReaction(Settings{Name: "mail", Attempts: 1}, times, On(accounts, func(_ context.Context, x map[int64]int, e deposited, f Fact) error {
			mu.Lock()
			defer mu.Unlock()
			x[e.Cents]++
			return nil
		}))
	}
	table := NewTable(Settings{Name: "rows", Attempts: 1}, Schema{}, On(accounts, func(ctx context.Context, tx *Tx, e deposited, f Fact) error { return nil }))
	p := l.project("a", nil, reaction(), table)
	l.deposit("x", 1)
	l.wait(p, "mail")
	store.down.Store(true)
	for i := range 20 {
		l.deposit("x", int64(i+2))
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return times[2] == 1
	}, patience, time.Millisecond)
	for _, r := range *p.runners.Load() { // several attempts to checkpoint
		require.Eventually(t, func() bool {
			r.turn <- struct{}{}
			defer func() { <-r.turn }()
			return r.failing > 3
		}, patience, time.Millisecond)
	}
	store.down.Store(false)
	l.wait(p, "mail")
	l.wait(p, "rows")
	for i := range 21 {
		require.Equal(t, 1, times[int64(i+1)])
	}
	for _, of := range p.Progress() {
		require.Zero(t, of.Parked)
	}
	p.Stop(t.Context())
	l.told = nil
	again := l.project("a", nil, reaction())
	l.deposit("x", 22)
	l.wait(again, "mail")
	require.Equal(t, 1, times[1], "a restart repeats nothing")
}

func TestAGapInTheLogIsAStop(t *testing.T) {
	store := &flaky{Store: memoryStore(t, 1), drop: func(e *persistence.Event) bool { return e.Offset == 3 }}
	l := newLedger(t, store)
	for i := range 5 {
		l.deposit("x", int64(i))
	}
	view := sumView(Settings{Name: "sums"})
	p := l.project("a", nil, view)
	require.Eventually(t, func() bool {
		of := p.Progress()[0].Partitions[0]
		return strings.Contains(of.Standing, "the log has a gap: event 4 comes after 2")
	}, patience, time.Millisecond)
	require.False(t, p.CaughtUp())
	l.deposit("x", 5)
	require.LessOrEqual(t, p.Progress()[0].Partitions[0].Position, persistence.Offset(2), "it is not passed over")
}

func TestUnknownEvents(t *testing.T) {
	for policy, check := range map[Unknown]func(t *testing.T, p *Projector, l *ledgerOfTest){
		PassOver: func(t *testing.T, p *Projector, l *ledgerOfTest) {
			l.wait(p, "sums")
			require.Zero(t, p.Progress()[0].Parked)
		},
		Park: func(t *testing.T, p *Projector, l *ledgerOfTest) {
			l.wait(p, "sums")
			require.Equal(t, 2, p.Progress()[0].Parked)
		},
		Stop: func(t *testing.T, p *Projector, l *ledgerOfTest) {
			require.Eventually(t, func() bool {
				of := p.Progress()[0].Partitions[0]
				return of.Position == 1 && strings.Contains(of.Standing, "withdrawn")
			}, patience, time.Millisecond)
		},
	} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			l := newLedger(t, memoryStore(t, 1))
			l.record("x", deposited{Cents: 1}, stored("withdrawn/2", `{}`), deposited{Cents: 2})
			check(t, l.project("a", nil, sumView(Settings{Name: "sums", Unknown: policy})), l)
		})
	}
}

func TestFromNowBeginsAtTheEndOfTheLogAndLosesNothingAfter(t *testing.T) {
	l := newLedger(t, memoryStore(t, 2))
	l.deposit("x", 1)
	l.deposit("y", 1)
	model := newSums()
	reaction := NewReaction(Settings{Name: "mail", FromNow: true}, model, On(accounts, func(ctx context.Context, s *sums, e deposited, f Fact) error { return s.add(ctx, e, f) }))
	p := l.project("a", nil, reaction)
	require.Eventually(t, func() bool {
		at, err := p.checkpoints(t.Context(), "mail@1")
		return err == nil && at[0]+at[1] == 2
	}, patience, time.Millisecond, "where it begins is stored before anything happens")
	l.deposit("x", 2)
	l.wait(p, "mail")
	require.Equal(t, map[string]int64{"x": 2}, model.cents)
}

func TestRebuiltViewTakesThePlaceOfTheOld(t *testing.T) {
	l := newLedger(t, memoryStore(t, 4))
	view := sumView(Settings{Name: "sums"})
	p := l.project("a", nil, view)
	for i := range 100 {
		l.deposit(fmt.Sprint(i%7), 1)
	}
	l.wait(p, "sums")
	view.mu.Lock()
	view.value.cents["1"] = 1_000_000 // a bug that was mended meanwhile
	view.mu.Unlock()
	var last RebuildProgress
	require.NoError(t, p.Rebuild(t.Context(), "sums", func(at RebuildProgress) { last = at }))
	require.Equal(t, RebuildProgress{100, 100}, last)
	l.deposit("1", 1)
	l.wait(p, "sums")
	view.Read(func(s *sums) { require.Equal(t, int64(16), s.cents["1"]) })
	require.Equal(t, int64(2), p.Progress()[0].Generation)
}

func TestMistakesInProjectionsAreListedTogether(t *testing.T) {
	err := Validate(
		NewView[sums](Settings{Name: "Sums"}, nil),
		NewReaction(Settings{Name: "a"}, 0, On[deposited, account](nil, func(context.Context, int, deposited, Fact) error { return nil })),
		NewReaction[int](Settings{Name: "a"}, 0, On[deposited, account, int](accounts, nil)),
		nil,
	)
	for _, want := range []string{"nothing makes the empty view", "it handles no event", "a name is 1 to 128", "two projections have this name", "of no aggregate type", "handler 1 is nil", "projection 4 is nil"} {
		require.ErrorContains(t, err, want)
	}
}

func TestADeposedOwnerHandlesNothingMore(t *testing.T) {
	onSQL(t, func(t *testing.T, store persistence.Store) {
		l := newLedger(t, store)
		table := NewTable(Settings{Name: "balances"}, balances, On(accounts, addTo(store)))
		stale := map[persistence.Partition]persistence.Epoch{}
		for p, f := range l.fences {
			stale[p] = f.Epoch
		}
		p := l.project("a", func(c *ProjectorConfig) { // it does not know yet
			c.Owned = func(p persistence.Partition) (persistence.NodeID, persistence.Epoch) { return "a", stale[p] }
		}, table)
		l.deposit("x", 1)
		l.wait(p, "balances")
		lost, other := persistence.PartitionOf(streamOf("x"), 8), "y"
		for persistence.PartitionOf(streamOf(other), 8) == lost {
			other += "y"
		}
		l.claim(lost, "b")
		l.deposit("x", 2)
		require.Eventually(t, func() bool {
			for _, r := range *p.runners.Load() {
				r.turn <- struct{}{}
				fenced := r.fenced
				<-r.turn
				if fenced > 2 {
					return true
				}
			}
			return false
		}, patience, time.Millisecond, "the fence refuses it")
		l.deposit(other, 4)
		require.Eventually(t, func() bool { return len(rowsOf(t, store, table.Name("balances"))) == 2 }, patience, time.Millisecond, "the others go on")
		require.Equal(t, map[string]row{"x": {1, 1}, other: {4, 1}}, rowsOf(t, store, table.Name("balances")))
	})
}

func TestATableNeedsAStoreWithSQL(t *testing.T) {
	_, err := StartProjector(ProjectorConfig{
		Store: memoryStore(t, 1), Owned: func(persistence.Partition) (persistence.NodeID, persistence.Epoch) { return "", 0 },
		Projections: []Projection{sumView(Settings{Name: "sums"}), NewTable(Settings{Name: "balances"}, balances, On(accounts, addTo(nil)))},
	})
	require.ErrorContains(t, err, "which the store has not")
}

func TestReleaseWaitsForTheHandlerAndStoresWhatItDid(t *testing.T) {
	l := newLedger(t, memoryStore(t, 1))
	entered, gate := make(chan struct{}), make(chan struct{})
	reaction := NewReaction(Settings{Name: "mail"}, 0, On(accounts, func(context.Context, int, deposited, Fact) error {
		close(entered)
		<-gate
		return nil
	}))
	p := l.project("a", nil, reaction)
	l.deposit("x", 1)
	<-entered
	given := make(chan struct{})
	go func() {
		defer close(given)
		p.Suspend(context.Background(), 0)
	}()
	select {
	case <-given:
		t.Fatal("given away under the handler")
	case <-time.After(20 * time.Millisecond):
	}
	close(gate)
	<-given
	at, err := p.checkpoints(t.Context(), "mail@1")
	require.NoError(t, err)
	require.Equal(t, persistence.Offset(1), at[0], "the next owner does not repeat it")

	l.claim(0, "a")
	p.Own(0, 1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p.Release(ended, 0) // there is no time: it returns
}
