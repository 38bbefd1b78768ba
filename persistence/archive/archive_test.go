package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/archive"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

var noon = time.Date(2026, 3, 14, 12, 0, 0, 123_456_000, time.UTC)

func openMemory(t *testing.T, partitions int) persistence.Store {
	s, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func openSQLite(t *testing.T, partitions int) persistence.Store {
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: partitions})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func openPostgres(t *testing.T, partitions int) persistence.Store {
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: partitions})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

var stores = map[string]func(*testing.T, int) persistence.Store{
	"memory": openMemory, "sqlite": openSQLite, "postgres": openPostgres,
}

// writer appends events of every shape.
type writer struct {
	t        *testing.T
	store    persistence.Store
	versions map[persistence.Stream]persistence.Version
	n        int
}

func newWriter(t *testing.T, s persistence.Store) *writer {
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: "w", State: persistence.Active}))
	for p := range s.Meta().Partitions {
		_, err := s.Claim(t.Context(), persistence.Partition(p), 0, "w")
		require.NoError(t, err)
	}
	return &writer{t: t, store: s, versions: make(map[persistence.Stream]persistence.Version)}
}

func (w *writer) write(n int) {
	w.t.Helper()
	shapes := [][]byte{[]byte(`{"Cents":500}`), nil, {0xff, 0, 1}, []byte("null"), []byte(" 1"), []byte("{\n}"), []byte(`"\u2028 é <&>"`), []byte("\"\xff\"")}
	for range n {
		s := persistence.Stream{Type: "account", ID: fmt.Sprintf("a/\"%d\u2028é", w.n%7)}
		c := &persistence.Commit{
			Stream: s, Partition: persistence.PartitionOf(s, w.store.Meta().Partitions), Epoch: 1, Expected: w.versions[s],
			At:     noon.Add(time.Duration(w.n) * time.Microsecond),
			Events: []persistence.NewEvent{{Type: "t", Payload: shapes[w.n%len(shapes)]}, {Type: "ü", Payload: shapes[(w.n+1)%len(shapes)]}},
		}
		binary.BigEndian.PutUint64(c.Command[8:], uint64(w.n+1))
		if w.n%2 == 0 {
			c.Metadata = []byte("meta\xff")
		}
		heads, err := w.store.Heads(w.t.Context())
		require.NoError(w.t, err)
		w.store.Append(w.t.Context(), &persistence.Batch{
			Owner: "w", Fences: []persistence.Fence{{Partition: c.Partition, Epoch: 1, Head: heads[c.Partition].After}}, Commits: []*persistence.Commit{c},
		})
		require.NoError(w.t, c.Err)
		w.versions[s] += 2
		w.n++
	}
}

func TestEveryStoreIsBroughtIntoEveryOther(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			from := open(t, 4)
			newWriter(t, from).write(60)
			var file bytes.Buffer
			exported, err := archive.Export(t.Context(), from, &file, nil, nil)
			require.NoError(t, err)
			require.EqualValues(t, 120, exported.Events)
			for other, open := range stores {
				to := open(t, 4)
				done := int64(0)
				imported, err := archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), func(n, _ int64) { done = n })
				require.NoError(t, err, other)
				require.Equal(t, exported.Hash, imported.Hash)
				require.EqualValues(t, 120, imported.Imported)
				require.EqualValues(t, 120, done)
				var again bytes.Buffer
				_, err = archive.Export(t.Context(), to, &again, nil, nil)
				require.NoError(t, err)
				_, lines, _ := strings.Cut(file.String(), "\n")
				_, linesAgain, _ := strings.Cut(again.String(), "\n")
				require.Equal(t, lines, linesAgain, "to %s and out again", other)
				imported, err = archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), nil)
				require.NoError(t, err)
				require.Zero(t, imported.Imported, "it is all there")
			}
		})
	}
}

// TestImportGoesOnFromAnyPlace cuts an archive at every line and at places within
// lines.
func TestImportGoesOnFromAnyPlace(t *testing.T) {
	from := openMemory(t, 3)
	newWriter(t, from).write(20)
	var file bytes.Buffer
	exported, err := archive.Export(t.Context(), from, &file, nil, nil)
	require.NoError(t, err)
	whole := file.Bytes()
	to := openSQLite(t, 3)
	for at := range whole {
		if whole[at] != '\n' && at%97 != 0 {
			continue
		}
		_, err := archive.Import(t.Context(), to, bytes.NewReader(whole[:at]), nil)
		require.Error(t, err, "cut at %d", at)
		if header := bytes.IndexByte(whole, '\n'); at > header {
			var incomplete *archive.IncompleteError
			require.ErrorAs(t, err, &incomplete, "cut at %d", at)
			state, err := archive.Scan(t.Context(), bytes.NewReader(whole[:at]))
			require.NoError(t, err)
			require.Equal(t, incomplete.Events, state.Events())
			require.False(t, state.Whole)
			var rest bytes.Buffer
			rest.Write(whole[:state.Length])
			gone, err := archive.Export(t.Context(), from, &rest, state, nil)
			require.NoError(t, err)
			require.Equal(t, exported, gone)
			require.Equal(t, string(whole), rest.String(), "an export goes on where it was cut")
		}
	}
	imported, err := archive.Import(t.Context(), to, bytes.NewReader(whole), nil)
	require.NoError(t, err)
	require.Equal(t, exported.Hash, imported.Hash)
}

func TestArchiveGrowsWithItsStore(t *testing.T) {
	from := openSQLite(t, 3)
	w := newWriter(t, from)
	w.write(5)
	var file bytes.Buffer
	_, err := archive.Export(t.Context(), from, &file, nil, nil)
	require.NoError(t, err)
	to := openMemory(t, 3)
	_, err = archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), nil)
	require.NoError(t, err)
	for range 3 {
		w.write(7)
		state, err := archive.Scan(t.Context(), bytes.NewReader(file.Bytes()))
		require.NoError(t, err)
		require.True(t, state.Whole)
		exported, err := archive.Export(t.Context(), from, &file, state, nil)
		require.NoError(t, err)
		imported, err := archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), nil)
		require.NoError(t, err)
		require.EqualValues(t, 14, imported.Imported)
		require.Equal(t, exported.Hash, imported.Hash)
	}
	state, err := archive.Scan(t.Context(), bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	other := openSQLite(t, 3)
	_, err = archive.Export(t.Context(), other, io.Discard, state, nil)
	require.Error(t, err, "it is of another store")
}

func TestDamageIsNoticedWhereItIs(t *testing.T) {
	from := openMemory(t, 2)
	newWriter(t, from).write(8)
	var file bytes.Buffer
	_, err := archive.Export(t.Context(), from, &file, nil, nil)
	require.NoError(t, err)
	lines := strings.SplitAfter(file.String(), "\n")
	lines = lines[:len(lines)-1]
	damage := map[string]func([]string) []string{
		"lost":      func(l []string) []string { return append(l[:3:3], l[4:]...) },
		"twice":     func(l []string) []string { return append(l[:4:4], l[3:]...) },
		"exchanged": func(l []string) []string { l[3], l[4] = l[4], l[3]; return l },
		"changed":   func(l []string) []string { l[3] = strings.Replace(l[3], `"epoch":1`, `"epoch":2`, 1); return l },
		"no object": func(l []string) []string { l[3] = "[]\n"; return l },
		"empty":     func(l []string) []string { l[3] = "\n"; return l },
		"longer":    func(l []string) []string { l[3] = strings.Replace(l[3], "\n", " {}\n", 1); return l },
		"unknown":   func(l []string) []string { l[3] = strings.Replace(l[3], `"epoch"`, `"epochs"`, 1); return l },
		"command":   func(l []string) []string { l[3] = strings.Replace(l[3], `"command":"00`, `"command":"0`, 1); return l },
	}
	for name, change := range damage {
		t.Run(name, func(t *testing.T) {
			damaged := strings.Join(change(append([]string{}, lines...)), "")
			require.NotEqual(t, file.String(), damaged)
			to := openMemory(t, 2)
			_, err := archive.Import(t.Context(), to, strings.NewReader(damaged), nil)
			var line *archive.LineError
			require.ErrorAs(t, err, &line)
			require.GreaterOrEqual(t, line.Line, int64(4))
			require.LessOrEqual(t, line.Line, int64(5))
			state, err := archive.Scan(t.Context(), strings.NewReader(damaged))
			require.ErrorAs(t, err, &line)
			require.Equal(t, int64(len(strings.Join(strings.SplitAfter(damaged, "\n")[:line.Line-1], ""))), state.Length)
			_, err = archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), nil)
			require.NoError(t, err, "what came before is a good beginning")
		})
	}
	last := append([]string{}, lines...)
	last[len(last)-1] = strings.Replace(last[len(last)-1], `"hash":"sha256:`, `"hash":"sha256:0`, 1)
	_, err = archive.Import(t.Context(), openMemory(t, 2), strings.NewReader(strings.Join(last, "")), nil)
	require.ErrorAs(t, err, new(*archive.LineError))
	for _, head := range []string{"", "{}\n", "\n", `{"archive":"ingrain","format":2,"store":"x","partitions":2}` + "\n", `{"archive":"ingrain","format":1,"store":"x","partitions":0}` + "\n"} {
		_, err := archive.Import(t.Context(), openMemory(t, 2), strings.NewReader(head), nil)
		require.ErrorAs(t, err, new(*archive.LineError), "%q", head)
	}
}

func TestUnfitTargetsAreRefused(t *testing.T) {
	from := openMemory(t, 2)
	newWriter(t, from).write(3)
	var file bytes.Buffer
	_, err := archive.Export(t.Context(), from, &file, nil, nil)
	require.NoError(t, err)
	_, err = archive.Import(t.Context(), openMemory(t, 3), bytes.NewReader(file.Bytes()), nil)
	require.ErrorContains(t, err, "create one with as many")
	_, err = archive.Import(t.Context(), from, bytes.NewReader(file.Bytes()), nil)
	require.ErrorAs(t, err, new(*persistence.ImportError), "nodes have joined it")

	other := openSQLite(t, 2)
	newWriter(t, other).write(3)
	var foreign bytes.Buffer
	_, err = archive.Export(t.Context(), other, &foreign, nil, nil)
	require.NoError(t, err)
	to := openMemory(t, 2)
	_, err = archive.Import(t.Context(), to, bytes.NewReader(foreign.Bytes()), nil)
	require.NoError(t, err)
	_, err = archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), nil)
	require.ErrorContains(t, err, other.Meta().StoreID)
}

// TestStoreThatDiffersIsNoticed imports an archive on top of the beginning of
// another that says it is of the same store.
func TestStoreThatDiffersIsNoticed(t *testing.T) {
	from := openMemory(t, 2)
	newWriter(t, from).write(3)
	var file bytes.Buffer
	_, err := archive.Export(t.Context(), from, &file, nil, nil)
	require.NoError(t, err)
	to := openMemory(t, 2)
	events, err := from.Tail(t.Context(), []persistence.Cursor{{Partition: 0}, {Partition: 1}}, 1)
	require.NoError(t, err)
	events[0].Payload = []byte("another")
	require.NoError(t, to.Import(t.Context(), from.Meta().StoreID, events[:1]))
	_, err = archive.Import(t.Context(), to, bytes.NewReader(file.Bytes()), nil)
	require.ErrorAs(t, err, new(*archive.HashError))
}

func TestExportEndsWithItsContext(t *testing.T) {
	from := openMemory(t, 2)
	newWriter(t, from).write(3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := archive.Export(ctx, from, io.Discard, nil, nil)
	require.ErrorIs(t, err, context.Canceled)
	full := errors.New("no space")
	_, err = archive.Export(t.Context(), from, failing{full}, nil, nil)
	require.ErrorIs(t, err, full)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestKeysAreCopied(t *testing.T) {
	from, to := openMemory(t, 1), openSQLite(t, 1)
	put := func(s persistence.Store, subject, secret string) {
		_, err := s.PutKey(t.Context(), persistence.Key{Subject: subject, Secret: []byte(secret), At: noon}, false)
		require.NoError(t, err)
	}
	put(from, "alice", "1")
	put(from, "bob", "2")
	put(to, "bob", "2")
	put(to, "carol", "3")
	require.NoError(t, from.DeleteKey(t.Context(), "carol", noon))
	copied, err := archive.CopyKeys(t.Context(), to, from)
	require.NoError(t, err)
	require.Equal(t, 3, copied)
	keys, err := to.ListKeys(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, keys, 3)
	require.Equal(t, "1", string(keys[0].Secret))
	require.True(t, keys[2].Forgotten)
	put(from, "dave", "4")
	put(to, "dave", "5")
	_, err = archive.CopyKeys(t.Context(), to, from)
	require.ErrorContains(t, err, "dave")
}

// TestFormatNeverChanges reads an archive that an earlier build wrote.
func TestFormatNeverChanges(t *testing.T) {
	golden, err := os.ReadFile("testdata/format1.jsonl")
	require.NoError(t, err)
	to := openMemory(t, 3)
	summary, err := archive.Import(t.Context(), to, bytes.NewReader(golden), nil)
	require.NoError(t, err)
	require.Equal(t, "sha256:9c52c658ac21c95492dfd47dedbce1322bab95691efae3314ac8ccf66e8549c3", summary.Hash)
	from := openMemory(t, 3)
	newWriter(t, from).write(9)
	events, err := from.Tail(t.Context(), []persistence.Cursor{{Partition: 0}, {Partition: 1}, {Partition: 2}}, 100)
	require.NoError(t, err)
	there, err := to.Tail(t.Context(), []persistence.Cursor{{Partition: 0}, {Partition: 1}, {Partition: 2}}, 100)
	require.NoError(t, err)
	require.Equal(t, events, there)
}

func FuzzImport(f *testing.F) {
	golden, err := os.ReadFile("testdata/format1.jsonl")
	require.NoError(f, err)
	f.Add(golden)
	f.Add(golden[:len(golden)/2])
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		to := openMemory(t, 3)
		state, scanErr := archive.Scan(t.Context(), bytes.NewReader(file))
		_, err := archive.Import(t.Context(), to, bytes.NewReader(file), nil)
		if scanErr != nil {
			require.Error(t, err)
			return
		}
		require.LessOrEqual(t, state.Length, int64(len(file)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		summary, err := archive.Export(t.Context(), to, &again, nil, nil)
		require.NoError(t, err)
		require.Equal(t, state.Hash(), summary.Hash)
	})
}
