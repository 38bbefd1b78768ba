package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// asker is who appends in these tests, under epoch 5 of partitions 1 and 2, with
// the witness at offset 1 of partition 1.
const (
	asker      = "me"
	askerEpoch = int64(5)
)

// fences are the places where the fence is written down: es_fence, and each of
// the steady statements. let runs one for the partitions and reports whether it
// let the append through.
var fences = []struct {
	name string
	let  func(t *testing.T, tx pgx.Tx, parts []int32, me string) bool
}{
	{"es_fence", func(t *testing.T, tx pgx.Tx, parts []int32, me string) bool {
		epochs, heads := make([]int64, len(parts)), make([]int64, len(parts))
		for i := range parts {
			epochs[i], heads[i] = askerEpoch, 1
		}
		_, err := tx.Exec(t.Context(), fenceSQL, parts, epochs, heads, []int32{}, []int64{}, int32(1), int64(1), me)
		if err == nil {
			return true
		}
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr)
		require.Equal(t, codeFenced, pgErr.Code, err)
		return false
	}},
	{steadyEvent, func(t *testing.T, tx pgx.Tx, parts []int32, me string) bool {
		return inserts(t, tx, 1, steadyEventSQL, parts[0], askerEpoch, me, int32(1), int64(1),
			int64(2), "thing/0", int64(1), "e", time.Now(), [16]byte{1}, []byte("m"), []byte("p"))
	}},
	{steadyPart, func(t *testing.T, tx pgx.Tx, parts []int32, me string) bool {
		c := columns(2)
		return inserts(t, tx, 2, steadyPartSQL, parts[0], askerEpoch, me, int32(1), int64(1),
			[]int64{2, 3}, c.streams, c.versions, c.types, c.ats, c.cmds, c.bytes, c.bytes)
	}},
	{steadyParts, func(t *testing.T, tx pgx.Tx, parts []int32, me string) bool {
		c := columns(len(parts))
		epochs, offsets := make([]int64, len(parts)), make([]int64, len(parts))
		for i := range parts {
			epochs[i], offsets[i] = askerEpoch, 2
		}
		return inserts(t, tx, len(parts), steadyPartsSQL, parts, epochs, me, int32(1), int64(1),
			parts, offsets, epochs, c.streams, c.versions, c.types, c.ats, c.cmds, c.bytes, c.bytes)
	}},
}

type eventColumns struct {
	streams, types []string
	versions       []int64
	ats            []time.Time
	cmds           [][16]byte
	bytes          [][]byte
}

func columns(n int) (c eventColumns) {
	for i := range n {
		c.streams, c.types = append(c.streams, fmt.Sprintf("thing/%d", i)), append(c.types, "e")
		c.versions, c.ats = append(c.versions, 1), append(c.ats, time.Now())
		c.cmds, c.bytes = append(c.cmds, [16]byte{byte(i)}), append(c.bytes, []byte("b"))
	}
	return c
}

func inserts(t *testing.T, tx pgx.Tx, all int, sql string, args ...any) bool {
	t.Helper()
	tag, err := tx.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
	n := int(tag.RowsAffected())
	require.Contains(t, []int{0, all}, n, "every row or none")
	return n == all
}

// fenced is a store with the asker's partitions, and connections to it.
func fenced(t *testing.T) (conn, other *pgx.Conn) {
	t.Helper()
	dsn := postgrestest.DSN(t)
	s, err := Open(t.Context(), Config{DSN: dsn, Partitions: 3})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: asker, Cluster: "test", State: persistence.Active}))
	for _, c := range []**pgx.Conn{&conn, &other} {
		*c, err = pgx.Connect(t.Context(), dsn+" search_path="+DefaultSchema)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, (*c).Close(context.Background())) })
	}
	_, err = conn.Exec(t.Context(), `update es_partition set epoch = $1, owner = $2 where part in (1, 2)`, askerEpoch, asker)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `insert into es_event (part, pos, epoch, stream, version, type, at, cmd, payload)
		select part, 1, 5, 'first/' || part, 1, 'e', now(), gen_random_uuid(), '' from es_partition where part in (1, 2)`)
	require.NoError(t, err)
	return conn, other
}

// TestFenceIsTheSameWhereverItIsWritten varies every column that the fence could
// depend on, and asks es_fence and the steady statements. // I1
func TestFenceIsTheSameWhereverItIsWritten(t *testing.T) {
	conn, _ := fenced(t)
	rows, err := conn.Query(t.Context(), `select attname::text from pg_attribute
		where attrelid = 'es_partition'::regclass and attnum > 0 and not attisdropped order by attnum`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"part", "epoch", "owner", "released"}, names, "a new column belongs among the changes below")

	for _, c := range []struct {
		change string
		passes string // for whom
	}{
		{`select`, asker},
		{`update es_partition set epoch = epoch + 1 where part = 1`, ""},
		{`update es_partition set epoch = epoch - 1 where part = 1`, ""},
		{`update es_partition set epoch = 0 where part = 1`, ""},
		{`update es_partition set owner = 'other'`, "other"},
		{`update es_partition set owner = 'ME' where part = 1`, ""},
		{`update es_partition set owner = 'me ' where part = 1`, ""},
		{`update es_partition set owner = '' where part = 1`, ""},
		{`update es_partition set owner = ''`, ""},
		{`update es_partition set released = true`, asker},
		{`update es_partition set epoch = 77, owner = 'other' where part = 0`, asker},
		{`delete from es_partition where part = 1`, ""},
		{`delete from es_event where part = 1`, ""},
		{`delete from es_event where part = 2`, asker},             // es_fence is not told to look at its head
		{`update es_node set state = 'dead'`, asker},               // only a claim ends a tenure
		{`update es_node set node = 'somebody else'`, asker},       // or so
		{`update es_meta set cluster = 'another one'`, asker},      // or so
		{`update es_tenure set owner = 'other', epoch = 9`, asker}, // kept for the record
	} {
		for _, me := range []string{asker, "other", ""} {
			for _, fence := range fences {
				for _, parts := range [][]int32{{1}, {2, 1}} {
					if len(parts) > 1 && (fence.name == steadyEvent || fence.name == steadyPart) {
						continue // they are of one partition
					}
					tx, err := conn.Begin(t.Context())
					require.NoError(t, err)
					_, err = tx.Exec(t.Context(), c.change)
					require.NoError(t, err)
					passed := fence.let(t, tx, parts, me)
					require.NoError(t, tx.Rollback(t.Context()))
					require.Equal(t, me == c.passes && me != "", passed,
						"%s on partitions %v for %q after %s", fence.name, parts, me, c.change)
				}
			}
		}
	}
}

// TestFenceLocksTheSameWhereverItIsWritten: a claim must wait for an append, and
// readers must not.
func TestFenceLocksTheSameWhereverItIsWritten(t *testing.T) {
	conn, other := fenced(t)
	for _, fence := range fences {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		require.True(t, fence.let(t, tx, []int32{1}, asker))
		for lock, waits := range map[string]bool{
			"part = 1 for no key update": true, "part = 1 for share": true, "part = 1 for key share": false,
			"part <> 1 for update": false,
		} {
			_, err := other.Exec(t.Context(), `select from es_partition where `+lock+` nowait`)
			var pgErr *pgconn.PgError
			if !waits {
				require.NoError(t, err, "%s: %s", fence.name, lock)
				continue
			}
			require.ErrorAs(t, err, &pgErr, "%s: %s", fence.name, lock)
			require.Equal(t, "55P03", pgErr.Code, "lock_not_available")
		}
		require.NoError(t, tx.Rollback(t.Context()))
	}
}
