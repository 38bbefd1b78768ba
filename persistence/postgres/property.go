package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	headsSQL = `select p.part, coalesce((select e.pos from es_event e where e.part = p.part order by e.pos desc limit 1), 0)
		from es_partition p order by p.part`
	streamsSQL = `select e.stream, e.pos, l.version, l.pos from es_event e
		cross join lateral (select version, pos from es_event v where v.stream = e.stream order by v.version desc limit 1) l
		where e.part = $1 and e.pos > $2 and e.version = 1 and e.type <> $3 order by e.pos limit $4`

	// Joining locks the row too, so that a node sees either no import or all of it.
	admitImportSQL = `select coalesce(source, ''), exists (select from es_node), exists (select from es_event)
		from es_meta for no key update`
	noteSourceSQL = `update es_meta set source = $1`
	headsOfSQL    = `select i.part, coalesce((select e.pos from es_event e where e.part = i.part order by e.pos desc limit 1), 0)
		from unnest($1::int[]) i(part)`
	expectVersionsSQL = `select es_expect($1, $2)`
	countEpochsSQL    = `update es_partition p set epoch = greatest(p.epoch, i.epoch), owner = '', released = true
		from unnest($1::int[], $2::bigint[]) i(part, epoch) where p.part = i.part`
	eraseSQL = `select es_erase($1, $2, $3, $4, $5, $6)`
)

var importedColumns = []string{"part", "pos", "epoch", "stream", "version", "type", "at", "cmd", "meta", "payload"}

// Heads returns where the partitions' logs end.
func (s *Store) Heads(ctx context.Context) ([]persistence.Cursor, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	heads := make([]persistence.Cursor, 0, s.meta.Partitions)
	var d decoder
	err := s.each(ctx, headsSQL, nil, func(row [][]byte) error {
		heads = append(heads, persistence.Cursor{
			Partition: persistence.Partition(d.int4(row[0])), After: persistence.Offset(d.int8(row[1])),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("heads: %w", err)
	}
	return heads, nil
}

// Streams lists a partition's streams by their first events.
func (s *Store) Streams(ctx context.Context, partition persistence.Partition, after persistence.Offset, limit int) ([]persistence.StreamInfo, error) {
	if err := s.within(partition); err != nil {
		return nil, fmt.Errorf("streams: %w", err)
	}
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if limit <= 0 {
		return nil, nil
	}
	var found []persistence.StreamInfo
	var d decoder
	args := []any{int32(partition), int64(after), persistence.ErasedType, limit}
	err := s.each(ctx, streamsSQL, args, func(row [][]byte) error {
		stream, err := persistence.ParseStream(string(row[0]))
		found = append(found, persistence.StreamInfo{
			Stream: stream, First: persistence.Offset(d.int8(row[1])),
			Version: persistence.Version(d.int8(row[2])), Last: persistence.Offset(d.int8(row[3])),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("streams of partition %d: %w", partition, err)
	}
	return found, nil
}

// Import continues the logs with events of another store.
func (s *Store) Import(ctx context.Context, source string, events []persistence.Event) error {
	if err := persistence.ValidateImport(events, s.meta.Partitions); err != nil {
		return err
	}
	for i := range events {
		if e := &events[i]; !isName(e.Stream) || !isText(e.Type) {
			return &persistence.ImportError{
				Event:  persistence.Cursor{Partition: e.Partition, After: e.Offset},
				Reason: "its stream or type is not valid UTF-8, or has a NUL in it",
			}
		}
	}
	if source == "" || !isText(source) {
		return &persistence.ImportError{Reason: "the source has no name"}
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	err := s.transact(ctx, &pgx.Batch{}, func(conn *pgx.Conn) error { return bring(ctx, conn, source, events) })
	if refusal := (*persistence.ImportError)(nil); err == nil || errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("import %d events: %w", len(events), err)
}

func bring(ctx context.Context, conn *pgx.Conn, source string, events []persistence.Event) error {
	var noted string
	var joined, filled bool
	err := conn.QueryRow(ctx, admitImportSQL).Scan(&noted, &joined, &filled)
	switch {
	case err != nil:
		return err
	case joined:
		return &persistence.ImportError{Reason: "nodes have joined the store: only a fresh one takes an import"}
	case noted != "" && noted != source:
		return &persistence.ImportError{Reason: fmt.Sprintf("it has events of store %s, and these are of %s", noted, source)}
	case noted == "" && filled:
		return &persistence.ImportError{Reason: "the store is not empty"}
	case noted == "":
		if _, err := conn.Exec(ctx, noteSourceSQL, source); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	if err := followPartitions(ctx, conn, events); err != nil {
		return err
	}
	if err := followStreams(ctx, conn, events); err != nil {
		return err
	}
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"es_event"}, importedColumns, pgx.CopyFromSlice(len(events), func(i int) ([]any, error) {
		e := &events[i]
		payload := e.Payload
		if payload == nil {
			payload = []byte{} // nil is NULL
		}
		var meta any
		if e.Metadata != nil {
			meta = e.Metadata
		}
		return []any{int32(e.Partition), int64(e.Offset), int64(e.Epoch), e.Stream.String(), int64(e.Version),
			e.Type, e.At, [16]byte(e.Command), meta, payload}, nil
	}))
	return err
}

// followPartitions asks whether the events continue their partitions, and counts
// the epochs on.
func followPartitions(ctx context.Context, conn *pgx.Conn, events []persistence.Event) error {
	first := make(map[persistence.Partition]*persistence.Event)
	last := make(map[persistence.Partition]persistence.Epoch)
	for i := range events {
		e := &events[i]
		if first[e.Partition] == nil {
			first[e.Partition] = e
		}
		last[e.Partition] = max(last[e.Partition], e.Epoch)
	}
	parts, epochs := make([]int32, 0, len(first)), make([]int64, 0, len(first))
	for p := range first {
		parts, epochs = append(parts, int32(p)), append(epochs, int64(last[p]))
	}
	rows, err := conn.Query(ctx, headsOfSQL, parts)
	if err != nil {
		return err
	}
	var part persistence.Partition
	var head persistence.Offset
	_, err = pgx.ForEachRow(rows, []any{&part, &head}, func() error {
		if e := first[part]; e.Offset != head+1 {
			return &persistence.ImportError{
				Event:  persistence.Cursor{Partition: part, After: e.Offset},
				Reason: fmt.Sprintf("the partition ends at %d", head),
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, countEpochsSQL, parts, epochs)
	return err
}

// followStreams asks whether the events continue their streams.
func followStreams(ctx context.Context, conn *pgx.Conn, events []persistence.Event) error {
	next := make(map[persistence.Stream]persistence.Version)
	var firsts []*persistence.Event
	refuse := func(e *persistence.Event, v persistence.Version) error {
		return &persistence.ImportError{
			Event:  persistence.Cursor{Partition: e.Partition, After: e.Offset},
			Reason: fmt.Sprintf("it is version %d of %s, which is at %d", e.Version, e.Stream, v),
		}
	}
	for i := range events {
		e := &events[i]
		want, known := next[e.Stream]
		if !known {
			firsts = append(firsts, e)
		} else if e.Version != want {
			return refuse(e, want-1)
		}
		next[e.Stream] = e.Version + 1
	}
	streams, versions := make([]string, len(firsts)), make([]int64, len(firsts))
	for i, e := range firsts {
		streams[i], versions[i] = e.Stream.String(), int64(e.Version)-1
	}
	_, err := conn.Exec(ctx, expectVersionsSQL, streams, versions)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != codeConflict {
		return err
	}
	var wrong []struct {
		N       int
		Version persistence.Version
	}
	if json.Unmarshal([]byte(pgErr.Detail), &wrong) != nil || len(wrong) == 0 || wrong[0].N > len(firsts) {
		return err
	}
	return refuse(firsts[wrong[0].N-1], wrong[0].Version)
}

// Erase takes out of the log what a stream says.
func (s *Store) Erase(ctx context.Context, owner persistence.NodeID, fence persistence.Fence, stream persistence.Stream) (persistence.Version, error) {
	if err := stream.Validate(); err != nil {
		return 0, fmt.Errorf("erase: %w", err)
	}
	if home := persistence.PartitionOf(stream, s.meta.Partitions); home != fence.Partition {
		return 0, fmt.Errorf("erase %s: it lives in partition %d, not %d", stream, home, fence.Partition)
	}
	if err := s.gate.enter(ctx); err != nil {
		return 0, err
	}
	defer s.gate.leave()
	if !isName(stream) {
		return 0, nil
	}
	into := persistence.ErasedType
	var version persistence.Version
	err := s.transact(ctx, &pgx.Batch{}, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, eraseSQL, stream.String(), into,
			int32(fence.Partition), int64(fence.Epoch), int64(fence.Head), string(owner)).Scan(&version)
	})
	s.known.Remove(stream)
	if err != nil {
		return 0, fmt.Errorf("erase %s: %w", stream, fenceRefusal(fence, err))
	}
	return version, nil
}

func fenceRefusal(fence persistence.Fence, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != codeFenced {
		return err
	}
	var refused []refusedPartition
	if json.Unmarshal([]byte(pgErr.Detail), &refused) != nil || len(refused) == 0 {
		return err
	}
	r := refused[0]
	fenced := &persistence.FencedError{Partition: fence.Partition, Epoch: fence.Epoch, Current: r.Epoch, Owner: r.Owner}
	if r.Epoch == fence.Epoch && r.Head != fence.Head {
		fenced.Head, fenced.StoreHead = fence.Head, r.Head
	}
	return fenced
}

// refusedPartition is what es_fence says of a partition.
type refusedPartition struct {
	Part  persistence.Partition
	Epoch persistence.Epoch
	Owner persistence.NodeID
	Head  persistence.Offset
}
