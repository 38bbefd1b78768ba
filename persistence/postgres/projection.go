package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	codeMoved = "ES004" // raised by es_advance

	advanceSQL       = `select es_advance($1, $2, $3, $4, $5, $6)`
	resolveLetterSQL = `delete from es_dead_letter l using unnest($2::int[], $3::bigint[]) i(part, pos)
		where l.projection = $1 and l.part = i.part and l.pos = i.pos`
	parkLetterSQL = `insert into es_dead_letter (projection, part, pos, sequence, stream, type, cause, attempts, at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		on conflict (projection, part, pos) do update set sequence = excluded.sequence, stream = excluded.stream,
			type = excluded.type, cause = excluded.cause, attempts = excluded.attempts, at = excluded.at`
	deadLettersSQL = `select part, pos, sequence, stream, type, cause, attempts, at from es_dead_letter
		where projection = $1 and (part, pos) > ($2, $3) order by part, pos limit $4`
	projectionNamesSQL  = `select projection from es_checkpoint union select projection from es_dead_letter order by 1`
	deleteProjectionSQL = `with checkpoints as (delete from es_checkpoint where projection = $1)
		delete from es_dead_letter where projection = $1`
)

// Advance is one round trip more than its work: the locks, the fences and the
// checkpoints are looked at, and written, in the one that begins the
// transaction.
func (s *Store) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	if err := step.Validate(s.meta.Partitions); err != nil {
		return err
	}
	first, err := stepBatch(&step)
	if err != nil {
		return fmt.Errorf("advance %s: %w", step.Projection, err)
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	var worked error // an error of work's own is returned as it is
	err = s.transact(ctx, first, func(conn *pgx.Conn) error {
		if work == nil {
			return nil
		}
		tx := &tx{conn: conn}
		defer tx.end()
		if worked = work(ctx, tx); worked != nil {
			return worked
		}
		return tx.whole()
	})
	if err == nil || worked != nil {
		return worked
	}
	return fmt.Errorf("advance %s: %w", step.Projection, stepRefusal(&step, err))
}

// stepBatch is all that a step does besides the work.
func stepBatch(step *persistence.Step) (*pgx.Batch, error) {
	if !isText(step.Projection) {
		return nil, errors.New("the projection's name is not valid text")
	}
	advances := slices.SortedFunc(slices.Values(step.Advances), func(a, b persistence.Advance) int {
		return cmp.Compare(a.Partition, b.Partition)
	})
	n := len(advances)
	parts, epochs, froms, tos := make([]int32, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, a := range advances {
		parts[i], epochs[i], froms[i], tos[i] = int32(a.Partition), int64(a.Epoch), int64(a.From), int64(a.To)
	}
	b := &pgx.Batch{}
	if n > 0 {
		b.Queue(advanceSQL, step.Projection, string(step.Owner), parts, epochs, froms, tos)
	}
	if n := len(step.Resolve); n > 0 {
		parts, offsets := make([]int32, n), make([]int64, n)
		for i, key := range step.Resolve {
			parts[i], offsets[i] = int32(key.Partition), int64(key.Offset)
		}
		b.Queue(resolveLetterSQL, step.Projection, parts, offsets)
	}
	for i := range step.Park {
		l := &step.Park[i]
		if !isName(l.Stream) || !isText(l.Type) {
			return nil, fmt.Errorf("park: %s is not a name", l.Stream)
		}
		b.Queue(parkLetterSQL, step.Projection, int32(l.Partition), int64(l.Offset), []byte(l.Sequence),
			l.Stream.String(), l.Type, []byte(l.Cause), l.Attempts, l.At)
	}
	return b, nil
}

// stepRefusal says what es_advance says.
func stepRefusal(step *persistence.Step, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != codeFenced && pgErr.Code != codeMoved {
		return err
	}
	var refused []refusedPartition
	if json.Unmarshal([]byte(pgErr.Detail), &refused) != nil || len(refused) == 0 {
		return err
	}
	r := refused[0]
	for _, a := range step.Advances {
		switch {
		case a.Partition != r.Part:
		case pgErr.Code == codeFenced:
			return &persistence.FencedError{Partition: r.Part, Epoch: a.Epoch, Current: r.Epoch, Owner: r.Owner}
		default:
			return &persistence.CheckpointMovedError{
				Projection: step.Projection, Partition: r.Part, From: a.From, Stored: r.Head,
			}
		}
	}
	return err
}

// transact runs a batch and then fn in one transaction of a working connection.
// The error wraps ErrUnknownOutcome when the connection was lost with the answer
// to the commit; any other left nothing.
func (s *Store) transact(ctx context.Context, first *pgx.Batch, fn func(*pgx.Conn) error) error {
	for again := true; ; again = false {
		conn, err := s.steps.Acquire(ctx)
		if err != nil {
			return concise(err)
		}
		err = begin(ctx, conn.Conn(), first)
		if err == nil {
			defer conn.Release()
			return finish(ctx, conn.Conn(), fn)
		}
		rollback(ctx, conn.Conn())
		conn.Release()
		if !again || ctx.Err() != nil || !isBroken(err) {
			return concise(err)
		}
		s.steps.Reset() // with the one, all have died
	}
}

// begin opens the transaction and runs the batch in the same round trip. It may
// wait for another step; one whose process is frozen is ended by the server, see
// stepSettings.
func begin(ctx context.Context, conn *pgx.Conn, first *pgx.Batch) error {
	batch := &pgx.Batch{}
	batch.Queue("begin")
	batch.QueuedQueries = append(batch.QueuedQueries, first.QueuedQueries...)
	return conn.SendBatch(ctx, batch).Close()
}

func finish(ctx context.Context, conn *pgx.Conn, fn func(*pgx.Conn) error) error {
	committed := false
	defer func() {
		if !committed { // or fn panicked
			rollback(ctx, conn)
		}
	}()
	if err := fn(conn); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if conn.IsClosed() {
		return errors.New("the connection was lost before the commit")
	}
	tag, err := conn.Exec(ctx, "commit")
	var pgErr *pgconn.PgError
	switch {
	case err == nil && tag.String() != "COMMIT":
		return errors.New("a statement had failed, so that the transaction was rolled back")
	case err == nil:
		committed = true
		return nil
	case errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR":
		return fmt.Errorf("commit: %w", err)
	}
	// Also when the driver says that nothing was sent: it says so of a connection
	// that was lost with the answer.
	return fmt.Errorf("commit: %w: %w", persistence.ErrUnknownOutcome, concise(err))
}

// rollback ends the transaction, or the connection if that cannot be.
func rollback(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		_ = conn.Close(ctx) // the server rolls back
	}
}

// DeadLetters returns a projection's letters by their places.
func (s *Store) DeadLetters(
	ctx context.Context, projection string, after persistence.DeadLetterKey, limit int,
) ([]persistence.DeadLetter, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if !isText(projection) || limit <= 0 {
		return nil, nil
	}
	var letters []persistence.DeadLetter
	var d decoder
	args := []any{projection, int32(after.Partition), int64(after.Offset), limit}
	err := s.each(ctx, deadLettersSQL, args, func(row [][]byte) error {
		stream, err := persistence.ParseStream(string(row[3]))
		letters = append(letters, persistence.DeadLetter{
			Projection: projection,
			DeadLetterKey: persistence.DeadLetterKey{
				Partition: persistence.Partition(d.int4(row[0])), Offset: persistence.Offset(d.int8(row[1])),
			},
			Sequence: string(row[2]), Stream: stream, Type: string(row[4]),
			Cause: string(row[5]), Attempts: int(d.int4(row[6])), At: d.timestamp(row[7]),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dead letters of %s: %w", projection, err)
	}
	return letters, nil
}

// ProjectionNames lists what has a checkpoint or a dead letter.
func (s *Store) ProjectionNames(ctx context.Context) ([]string, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	var names []string
	err := s.each(ctx, projectionNamesSQL, nil, func(row [][]byte) error {
		names = append(names, string(row[0]))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list projections: %w", err)
	}
	return names, nil
}

// DeleteProjection forgets checkpoints and dead letters.
func (s *Store) DeleteProjection(ctx context.Context, projection string) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	return s.change(ctx, "delete projection", deleteProjectionSQL, projection)
}
