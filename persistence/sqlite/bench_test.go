package sqlite_test

import (
	"context"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	modernc "modernc.org/sqlite"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// The goal is that a store appends at 0.70 of the speed of the bare driver
// that inserts the same rows in batches of about 300:
//
//	go test -run - -bench 'Append|BareDriver' -benchtime 5s -count 5 ./persistence/sqlite
var batchSizes = []int{1, 32, 300}

const benchStreams, benchPayload = 10_000, 200

// workload chooses streams at random and counts their versions.
type workload struct {
	streams  []persistence.Stream
	versions []persistence.Version
	payload  []byte
	at       time.Time
}

func newWorkload() *workload {
	w := &workload{
		streams:  make([]persistence.Stream, benchStreams),
		versions: make([]persistence.Version, benchStreams),
		payload:  make([]byte, benchPayload),
		at:       time.UnixMicro(1_790_000_000_000_000),
	}
	for i := range w.streams {
		w.streams[i] = persistence.Stream{Type: "account", ID: fmt.Sprintf("%08x-0000-4000", uint32(i)*2_654_435_761)}
	}
	return w
}

// next returns a stream and its version before the next event.
func (w *workload) next() (persistence.Stream, persistence.Version) {
	i := rand.IntN(benchStreams)
	w.versions[i]++
	return w.streams[i], w.versions[i] - 1
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range batchSizes {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			ctx := b.Context()
			s, err := sqlite.Open(ctx, sqlite.Config{Dir: b.TempDir()})
			require.NoError(b, err)
			defer s.Close()
			o, err := own(ctx, s, "node-1", allPartitions())
			require.NoError(b, err)
			w := newWorkload()
			batch := &persistence.Batch{Owner: o.node, Fences: make([]persistence.Fence, 0, s.Meta().Partitions)}
			for range size {
				batch.Commits = append(batch.Commits, &persistence.Commit{
					At: w.at, Events: []persistence.NewEvent{{Type: "deposited", Payload: w.payload}},
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				batch.Fences = batch.Fences[:0]
				for _, c := range batch.Commits {
					c.Stream, c.Expected = w.next()
					c.Partition = persistence.PartitionOf(c.Stream, len(o.tenures))
					t := o.tenures[c.Partition]
					c.Epoch = t.Epoch
					if !t.fenced {
						t.fenced = true
						batch.Fences = append(batch.Fences, persistence.Fence{Partition: t.Partition, Epoch: t.Epoch, Head: t.Head})
					}
				}
				s.Append(ctx, batch)
				for _, c := range batch.Commits {
					if c.Err != nil {
						b.Fatal(c.Err)
					}
					t := o.tenures[c.Partition]
					t.fenced = false
					t.Head = max(t.Head, c.Offset)
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkBareDriver inserts the same rows into the same tables, with the
// driver's own prepared statements, and checks nothing.
func BenchmarkBareDriver(b *testing.B) {
	for _, size := range batchSizes {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			dir := b.TempDir()
			s, err := sqlite.Open(b.Context(), sqlite.Config{Dir: dir})
			require.NoError(b, err)
			partitions := s.Meta().Partitions
			require.NoError(b, s.Close())
			raw, err := new(modernc.Driver).Open("file://" + filepath.Join(dir, "ingrain.db"))
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, raw.Close()) })
			prepare := func(sql string) func([]driver.NamedValue) {
				stmt, err := raw.Prepare(sql)
				require.NoError(b, err)
				b.Cleanup(func() { _ = stmt.Close() })
				return func(args []driver.NamedValue) {
					if _, err := stmt.(driver.StmtExecContext).ExecContext(context.Background(), args); err != nil {
						b.Fatal(err)
					}
				}
			}
			for _, pragma := range []string{"synchronous = full", "cache_size = -65536", "wal_autocheckpoint = 10000"} {
				prepare("pragma " + pragma)(nil)
			}
			begin, commit := prepare("begin immediate"), prepare("commit")
			insert := prepare("insert into es_event (part, pos, epoch, stream, version, type, at, cmd, meta, payload) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
			args := make([]driver.NamedValue, 10)
			for i := range args {
				args[i].Ordinal = i + 1
			}
			w := newWorkload()
			names := make(map[persistence.Stream]string)
			for _, stream := range w.streams {
				names[stream] = stream.String()
			}
			heads := make([]int64, partitions)
			command := make([]byte, 16)
			b.ReportAllocs()
			for b.Loop() {
				begin(nil)
				for range size {
					stream, version := w.next()
					p := persistence.PartitionOf(stream, partitions)
					heads[p]++
					args[0].Value, args[1].Value, args[2].Value = int64(p), heads[p], int64(1)
					args[3].Value, args[4].Value, args[5].Value = names[stream], int64(version)+1, "deposited"
					args[6].Value, args[7].Value, args[8].Value, args[9].Value = w.at.UnixMicro(), command, nil, w.payload
					insert(args)
				}
				commit(nil)
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
