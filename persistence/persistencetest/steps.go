package persistencetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// tablesSQL is a read model of the suite in each dialect: how often each place of
// a projection was counted. Nothing in it keeps a place from being counted twice.
var tablesSQL = map[string]struct{ create, insert, count, twice string }{
	"postgres": {
		create: `create table if not exists suite_effect (projection text, part int, pos bigint)`,
		insert: `insert into suite_effect values ($1, $2, $3)`,
		count:  `select count(*), coalesce(max(pos), 0) from suite_effect where projection = $1 and part = $2`,
		twice:  `select count(*) from (select 1 from suite_effect group by projection, part, pos having count(*) > 1) d`,
	},
	"sqlite": {
		create: `create table if not exists suite_effect (projection text, part int, pos int)`,
		insert: `insert into suite_effect values (?, ?, ?)`,
		count:  `select count(*), coalesce(max(pos), 0) from suite_effect where projection = ? and part = ?`,
		twice:  `select count(*) from (select 1 from suite_effect group by projection, part, pos having count(*) > 1) d`,
	},
}

// effects is the suite's read model: a table, or a list where there are none.
type effects struct {
	t       *testing.T
	store   persistence.Store
	dialect string

	mu   sync.Mutex
	list map[place]int
}

type place struct {
	projection string
	partition  persistence.Partition
	offset     persistence.Offset
}

func newEffects(t *testing.T, s persistence.Store) *effects {
	t.Helper()
	e := &effects{t: t, store: s, dialect: s.Meta().Dialect, list: make(map[place]int)}
	if e.dialect != "" {
		require.Contains(t, tablesSQL, e.dialect)
		e.sql(func(ctx context.Context, tx persistence.Tx) error {
			_, err := tx.Exec(ctx, tablesSQL[e.dialect].create)
			return err
		})
	}
	return e
}

// sql runs work in a step that does nothing else.
func (e *effects) sql(work func(context.Context, persistence.Tx) error) {
	e.t.Helper()
	require.NoError(e.t, e.store.Advance(e.t.Context(), persistence.Step{Projection: "suite"}, work))
}

// count is a step's work: one effect for every offset of its advances.
func (e *effects) count(step persistence.Step) func(context.Context, persistence.Tx) error {
	return func(ctx context.Context, tx persistence.Tx) error {
		for _, a := range step.Advances {
			for offset := a.From + 1; offset <= a.To; offset++ {
				if e.dialect == "" {
					e.mu.Lock()
					e.list[place{step.Projection, a.Partition, offset}]++
					e.mu.Unlock()
					continue
				}
				if _, err := tx.Exec(ctx, tablesSQL[e.dialect].insert, step.Projection, a.Partition, offset); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// of returns how many effects a partition has, and the last one.
func (e *effects) of(projection string, p persistence.Partition) (n int, last persistence.Offset) {
	e.t.Helper()
	if e.dialect == "" {
		for at, times := range e.list {
			if at.projection == projection && at.partition == p {
				n += times
				last = max(last, at.offset)
			}
		}
		return n, last
	}
	e.sql(func(ctx context.Context, tx persistence.Tx) error {
		rows, err := tx.Query(ctx, tablesSQL[e.dialect].count, projection, p)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			if err := rows.Scan(&n, &last); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return n, last
}

// twice counts the places that were counted more than once.
func (e *effects) twice() (n int) {
	e.t.Helper()
	if e.dialect == "" {
		for _, times := range e.list {
			if times > 1 {
				n++
			}
		}
		return n
	}
	e.sql(func(ctx context.Context, tx persistence.Tx) error {
		rows, err := tx.Query(ctx, tablesSQL[e.dialect].twice)
		if err != nil {
			return err
		}
		for rows.Next() {
			if err := rows.Scan(&n); err != nil {
				return err
			}
		}
		return rows.Close()
	})
	return n
}

var stepCases = []testCase{
	{"StepMovesItsCheckpointsAndItsEffects", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 4)
		table := newEffects(t, s)
		step := o.step("balances", 0, 3, 2, 5)
		require.NoError(t, s.Advance(t.Context(), step, table.count(step)))
		require.Equal(t, []persistence.Cursor{{Partition: 0, After: 3}, {Partition: 2, After: 5}}, checkpoints(t, s, "balances"))
		step = persistence.Step{Projection: "balances", Owner: o.node, Advances: []persistence.Advance{
			{Partition: 2, Epoch: o.fences[2].Epoch, From: 5, To: 5}, {Partition: 0, Epoch: o.fences[0].Epoch, From: 3, To: 4},
			{Partition: 1, To: 1}, // without a fence
		}}
		require.NoError(t, s.Advance(t.Context(), step, table.count(step)))
		require.Equal(t, []persistence.Cursor{{Partition: 0, After: 4}, {Partition: 1, After: 1}, {Partition: 2, After: 5}},
			checkpoints(t, s, "balances"))
		for p, want := range map[persistence.Partition]int{0: 4, 1: 1, 2: 5, 3: 0} {
			n, last := table.of("balances", p)
			require.Equal(t, want, n, "effects in partition %d", p)
			require.EqualValues(t, want, last)
		}
		require.Zero(t, table.twice())
		require.NoError(t, s.Advance(t.Context(), o.step("others", 0, 9), nil))
		require.Equal(t, []persistence.Cursor{{Partition: 0, After: 9}}, checkpoints(t, s, "others"))
	}},
	{"MovedCheckpointRefusesTheStep", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 2)
		require.NoError(t, s.Advance(t.Context(), o.step("p", 0, 5), nil))
		for _, from := range []persistence.Offset{0, 4, 6} {
			step := o.step("p", 0, 7, 1, 1)
			step.Advances[0].From = from
			step.Park = []persistence.DeadLetter{letter(1, 1)}
			err := s.Advance(t.Context(), step, mustNotWork)
			var moved *persistence.CheckpointMovedError
			require.ErrorAs(t, err, &moved)
			require.Equal(t, persistence.CheckpointMovedError{Projection: "p", From: from, Stored: 5}, *moved)
		}
		step := o.step("p", 1, 3)
		step.Advances[0].From = 2
		var moved *persistence.CheckpointMovedError
		require.ErrorAs(t, s.Advance(t.Context(), step, mustNotWork), &moved)
		require.Zero(t, moved.Stored)
		require.Equal(t, persistence.Partition(1), moved.Partition)
		requireCheckpoint(t, s, "p", 0, 5)
		require.Empty(t, letters(t, s, "p"))
	}},
	{"FailedWorkLeavesNothing", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 2)
		table := newEffects(t, s)
		step := o.step("p", 0, 5)
		step.Park = []persistence.DeadLetter{letter(0, 2)}
		broken := errors.New("broken")
		fail := func(end func() error) func(context.Context, persistence.Tx) error {
			return func(ctx context.Context, tx persistence.Tx) error {
				if table.dialect != "" {
					if err := table.count(step)(ctx, tx); err != nil {
						return err
					}
				}
				return end()
			}
		}
		require.Equal(t, broken, s.Advance(t.Context(), step, fail(func() error { return broken })), "as it is")
		require.PanicsWithValue(t, "no", func() {
			_ = s.Advance(t.Context(), step, fail(func() error { panic("no") }))
		})
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Advance(ctx, step, fail(func() error { cancel(); return nil }))
		require.ErrorIs(t, err, context.Canceled)
		requireCheckpoint(t, s, "p", 0, 0)
		require.Empty(t, letters(t, s, "p"))
		n, _ := table.of("p", 0)
		require.Zero(t, n)
		require.NoError(t, s.Advance(t.Context(), step, table.count(step)), "the store goes on")
		requireCheckpoint(t, s, "p", 0, 5)
	}},
	{"FailedStatementFailsTheStep", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 1)
		step := o.step("p", 0, 5)
		if s.Meta().Dialect == "" {
			require.ErrorIs(t, s.Advance(t.Context(), step, func(ctx context.Context, tx persistence.Tx) error {
				_, err := tx.Query(ctx, "select 1")
				if !errors.Is(err, persistence.ErrNoSQL) {
					return err
				}
				_, err = tx.Exec(ctx, "select 1")
				return err
			}), persistence.ErrNoSQL)
			return
		}
		require.Error(t, s.Advance(t.Context(), step, func(ctx context.Context, tx persistence.Tx) error {
			_, err := tx.Exec(ctx, "insert into no_such_table values (1)")
			return err
		}))
		var kept persistence.Tx
		require.Error(t, s.Advance(t.Context(), step, func(ctx context.Context, tx persistence.Tx) error {
			kept = tx
			_, err := tx.Query(ctx, "select 1")
			return err // and leaves the rows open
		}))
		_, err := kept.Exec(t.Context(), "select 1")
		require.Error(t, err, "a transaction ends with its step")
		requireCheckpoint(t, s, "p", 0, 0)
	}},
	{"DeposedOwnerIsRefused", func(t *testing.T, h Harness) {
		s, old := openOwned(t, h, 2)
		require.NoError(t, s.Advance(t.Context(), old.step("p", 0, 1, 1, 1), nil))
		next := join(t, h.Again(t, s), "owner-2")
		next.claim(0)
		step := old.step("p", 0, 2, 1, 2)
		step.Advances[0].From, step.Advances[1].From = 1, 1
		var fenced *persistence.FencedError
		require.ErrorAs(t, s.Advance(t.Context(), step, mustNotWork), &fenced)
		require.Equal(t, persistence.FencedError{Epoch: 1, Current: 2, Owner: "owner-2"}, *fenced)
		requireCheckpoint(t, s, "p", 1, 1)
		step.Owner, step.Advances = "owner-2", step.Advances[:1]
		require.ErrorAs(t, next.store.Advance(t.Context(), step, mustNotWork), &fenced, "the epoch counts too")
		step.Advances[0].Epoch = 2
		require.NoError(t, next.store.Advance(t.Context(), step, nil))
		require.NoError(t, s.Release(t.Context(), 1, 1, old.node, ""))
		last := persistence.Step{Projection: "p", Advances: []persistence.Advance{{Partition: 1, Epoch: 2, From: 1, To: 2}}}
		require.ErrorAs(t, s.Advance(t.Context(), last, mustNotWork), &fenced, "nobody's partition is not the one of nobody")
	}},
	{"TwoOwnersRacingHaveEachEffectOnce", func(t *testing.T, h Harness) { raceOwners(t, h) }},
	{"StepsOverManyPartitionsDoNotDeadlock", func(t *testing.T, h Harness) {
		const rounds, workers = 30, 4
		s, _ := openOwned(t, h, 8)
		table := newEffects(t, s)
		var all sync.WaitGroup
		failures := make(chan error, workers)
		for w := range workers {
			all.Go(func() {
				for done := 0; done < rounds; {
					step := persistence.Step{Projection: "p"}
					for _, c := range tryCheckpoints(t.Context(), s, "p", failures) {
						step.Advances = append(step.Advances, persistence.Advance{Partition: c.Partition, From: c.After, To: c.After + 1})
					}
					if len(step.Advances) == 0 {
						for p := range persistence.Partition(8) {
							step.Advances = append(step.Advances, persistence.Advance{Partition: p, To: 1})
						}
					}
					if w%2 == 0 { // the other way round
						for i, j := 0, len(step.Advances)-1; i < j; i, j = i+1, j-1 {
							step.Advances[i], step.Advances[j] = step.Advances[j], step.Advances[i]
						}
					}
					err := s.Advance(t.Context(), step, table.count(step))
					if errors.As(err, new(*persistence.CheckpointMovedError)) {
						continue
					}
					if err != nil {
						failures <- err
						return
					}
					done++
				}
			})
		}
		all.Wait()
		close(failures)
		require.NoError(t, <-failures)
		for p := range persistence.Partition(8) {
			requireCheckpoint(t, s, "p", p, rounds*workers)
			n, _ := table.of("p", p)
			require.Equal(t, rounds*workers, n)
		}
		require.Zero(t, table.twice())
	}},
	{"DeadLettersAreParkedAndResolvedByTheirSteps", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 3)
		first, second, third := letter(0, 2), letter(0, 7), letter(2, 1)
		third.Cause, third.Sequence = "\x00\xff", "\xfe"
		step := o.step("p", 0, 7, 2, 1)
		step.Park = []persistence.DeadLetter{third, second, first}
		require.NoError(t, s.Advance(t.Context(), step, nil))
		require.Equal(t, []persistence.DeadLetter{first, second, third}, letters(t, s, "p"))
		page, err := s.DeadLetters(t.Context(), "p", first.DeadLetterKey, 1)
		require.NoError(t, err)
		require.Equal(t, []persistence.DeadLetter{second}, page)
		require.Empty(t, letters(t, s, "q"))

		second.Attempts, second.Cause = 4, "again"
		step = persistence.Step{
			Projection: "p", Park: []persistence.DeadLetter{second},
			Resolve: []persistence.DeadLetterKey{first.DeadLetterKey, second.DeadLetterKey, {Partition: 1, Offset: 9}},
		}
		require.NoError(t, s.Advance(t.Context(), step, nil))
		require.Equal(t, []persistence.DeadLetter{second, third}, letters(t, s, "p"))
		require.Equal(t, letters(t, s, "p"), letters(t, h.Again(t, s), "p"))
	}},
	{"DeletedProjectionIsForgotten", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 2)
		for _, name := range []string{"p", "q"} {
			step := o.step(name, 0, 5)
			step.Park = []persistence.DeadLetter{letter(0, 1)}
			step.Park[0].Projection = name
			require.NoError(t, s.Advance(t.Context(), step, nil))
		}
		names, err := s.ProjectionNames(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"p", "q"}, names)
		require.NoError(t, s.DeleteProjection(t.Context(), "p"))
		require.NoError(t, s.DeleteProjection(t.Context(), "never was"))
		require.Empty(t, checkpoints(t, s, "p"))
		require.Empty(t, letters(t, s, "p"))
		require.Len(t, letters(t, s, "q"), 1)
		requireCheckpoint(t, s, "q", 0, 5)
		names, err = s.ProjectionNames(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"q"}, names)
		require.NoError(t, s.Advance(t.Context(), o.step("p", 0, 1), nil), "it starts anew")
	}},
	{"UnfitStepsAreRefused", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 2)
		for name, change := range map[string]func(*persistence.Step){
			"no name":      func(s *persistence.Step) { s.Projection = "" },
			"backwards":    func(s *persistence.Step) { s.Advances[0].From = 9 },
			"no partition": func(s *persistence.Step) { s.Advances[0].Partition = 2 },
			"twice":        func(s *persistence.Step) { s.Advances = append(s.Advances, s.Advances[0]) },
			"no stream":    func(s *persistence.Step) { s.Park = []persistence.DeadLetter{{}} },
			"foreign":      func(s *persistence.Step) { l := letter(0, 1); l.Projection = "x"; s.Park = []persistence.DeadLetter{l} },
		} {
			step := o.step("p", 0, 5)
			change(&step)
			require.Error(t, s.Advance(t.Context(), step, mustNotWork), name)
		}
		require.Empty(t, checkpoints(t, s, "p"))
	}},
	{"ColumnsScanIntoGoTypes", func(t *testing.T, h Harness) {
		s, _ := openOwned(t, h, 1)
		if s.Meta().Dialect == "" {
			return // there is nothing to scan
		}
		create, insert, read := `create table suite_types (i bigint, n int, t text, b bytea, f double precision, y boolean, at timestamptz, missing text)`,
			`insert into suite_types values ($1, $2, $3, $4, $5, $6, $7, $8)`, `select i, n, t, b, f, y, at, missing from suite_types where t = $1`
		if s.Meta().Dialect == "sqlite" {
			create, insert, read = `create table suite_types (i integer, n integer, t text, b blob, f real, y integer, at integer, missing text)`,
				`insert into suite_types values (?, ?, ?, ?, ?, ?, ?, ?)`, `select i, n, t, b, f, y, at, missing from suite_types where t = ?`
		}
		var (
			i       persistence.Offset
			n       int32
			text    string
			bytes   []byte
			f       float64
			y       bool
			at      time.Time
			nothing *string
		)
		newEffects(t, s).sql(func(ctx context.Context, tx persistence.Tx) error {
			if _, err := tx.Exec(ctx, create); err != nil {
				return err
			}
			affected, err := tx.Exec(ctx, insert, persistence.Offset(1<<40), int32(-7), "é", []byte{0, 1}, 1.5, true, noon, nil)
			if err != nil || affected != 1 {
				return errors.Join(err, errors.New("one row was not inserted"))
			}
			rows, err := tx.Query(ctx, read, "é")
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			if _, err := tx.Exec(ctx, insert); err == nil {
				return errors.New("rows are open")
			}
			for rows.Next() {
				if err := rows.Scan(&i, &n, &text, &bytes, &f, &y, &at, &nothing); err != nil {
					return err
				}
			}
			return rows.Err()
		})
		require.Equal(t, []any{persistence.Offset(1 << 40), int32(-7), "é", []byte{0, 1}, 1.5, true, (*string)(nil)},
			[]any{i, n, text, bytes, f, y, nothing})
		require.True(t, noon.Equal(at), at)
	}},
}

// raceOwners lets two owners of one partition, one deposed in every round, work on
// it at once: whoever of them wins, an effect happens once.
func raceOwners(t *testing.T, h Harness) {
	const rounds = 60
	s, o := openOwned(t, h, 1)
	table := newEffects(t, s)
	owners := [2]*owner{o, join(t, h.Again(t, s), "owner-2")}
	var landed [2]int
	for round := range rounds {
		old, next := owners[round%2], owners[1-round%2]
		at := checkpoint(t, s, "p", 0)
		var all sync.WaitGroup
		errs := make([]error, 2)
		all.Go(func() { // the old one works on as if nothing had happened
			step := old.stepFrom("p", 0, at, at+2)
			errs[0] = old.store.Advance(t.Context(), step, table.count(step))
		})
		all.Go(func() {
			row := next.epoch(0)
			tenure, err := next.store.Claim(t.Context(), 0, row, next.node)
			if err != nil {
				errs[1] = err
				return
			}
			next.fences[0] = &persistence.Fence{Epoch: tenure.Epoch, Head: tenure.Head}
			from := at
			for {
				step := next.stepFrom("p", 0, from, from+2)
				err := next.store.Advance(t.Context(), step, table.count(step))
				var moved *persistence.CheckpointMovedError
				if !errors.As(err, &moved) {
					errs[1] = err
					return
				}
				from = moved.Stored
			}
		})
		all.Wait()
		require.NoError(t, errs[1], "round %d: the new owner", round)
		want := at + 2
		if errs[0] == nil {
			landed[0]++
			want += 2
		} else {
			landed[1]++
			if !errors.As(errs[0], new(*persistence.CheckpointMovedError)) {
				require.ErrorAs(t, errs[0], new(*persistence.FencedError), "round %d: the old owner", round)
			}
		}
		requireCheckpoint(t, s, "p", 0, want)
		if table.dialect != "" {
			n, last := table.of("p", 0)
			require.EqualValues(t, want, n, "effects after round %d", round)
			require.Equal(t, want, last)
		}
	}
	require.Zero(t, table.twice(), "effects that happened twice")
	t.Logf("the old owner landed before the new one in %d of %d rounds", landed[0], rounds)
}

// epoch is the partition's epoch as this owner's handle sees it, for use outside
// the test's goroutine.
func (o *owner) epoch(p persistence.Partition) persistence.Epoch {
	v, err := o.store.View(o.t.Context())
	if err != nil {
		return -1 // no claim succeeds
	}
	return v.Partitions[p].Epoch
}

// step moves checkpoints from nothing: pairs of a partition and an offset.
func (o *owner) step(projection string, pairs ...int) persistence.Step {
	step := persistence.Step{Projection: projection, Owner: o.node}
	for i := 0; i < len(pairs); i += 2 {
		p := persistence.Partition(pairs[i])
		step.Advances = append(step.Advances, persistence.Advance{
			Partition: p, Epoch: o.fences[p].Epoch, To: persistence.Offset(pairs[i+1]),
		})
	}
	return step
}

func (o *owner) stepFrom(projection string, p persistence.Partition, from, to persistence.Offset) persistence.Step {
	return persistence.Step{Projection: projection, Owner: o.node, Advances: []persistence.Advance{
		{Partition: p, Epoch: o.fences[p].Epoch, From: from, To: to},
	}}
}

func mustNotWork(context.Context, persistence.Tx) error { panic("the work of a refused step was run") }

func letter(p persistence.Partition, offset persistence.Offset) persistence.DeadLetter {
	return persistence.DeadLetter{
		Projection: "p", DeadLetterKey: persistence.DeadLetterKey{Partition: p, Offset: offset},
		Sequence: "account/a", Stream: persistence.Stream{Type: "account", ID: "a"}, Type: "deposited.v1",
		Cause: "it would not", Attempts: 3, At: noon,
	}
}

func letters(t *testing.T, s persistence.Store, projection string) []persistence.DeadLetter {
	t.Helper()
	found, err := s.DeadLetters(t.Context(), projection, persistence.DeadLetterKey{}, 100)
	require.NoError(t, err)
	return found
}

func checkpoints(t *testing.T, s persistence.Store, projection string) []persistence.Cursor {
	t.Helper()
	found, err := s.LoadCheckpoints(t.Context(), projection)
	require.NoError(t, err)
	return found
}

func tryCheckpoints(ctx context.Context, s persistence.Store, projection string, failures chan<- error) []persistence.Cursor {
	found, err := s.LoadCheckpoints(ctx, projection)
	if err != nil {
		failures <- err
	}
	return found
}

func checkpoint(t *testing.T, s persistence.Store, projection string, p persistence.Partition) persistence.Offset {
	t.Helper()
	for _, c := range checkpoints(t, s, projection) {
		if c.Partition == p {
			return c.After
		}
	}
	return 0
}

func requireCheckpoint(t *testing.T, s persistence.Store, projection string, p persistence.Partition, want persistence.Offset) {
	t.Helper()
	require.Equal(t, want, checkpoint(t, s, projection, p), "checkpoint of partition %d", p)
}
