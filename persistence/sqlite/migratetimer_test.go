package sqlite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// Timers had no name before schema version 5, and a stream could have several that
// were due at one moment.
func TestTimersWithoutANameGetOne(t *testing.T) {
	dir := t.TempDir()
	c, err := connect(dir + "/ingrain.db")
	require.NoError(t, err)
	all, err := readMigrations(migrations)
	require.NoError(t, err)
	require.NoError(t, c.script("begin immediate"))
	require.NoError(t, end(c, apply(c, all[:4], 0, 1)))
	due := time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	for i := range byte(3) {
		_, err := c.exec("insert into es_timer (part, due, id, stream, payload) values (0, ?, ?, 'order/1', ?)",
			due.Add(time.Duration(i/2)*time.Second), persistence.CommandID{i}, []byte{i})
		require.NoError(t, err)
	}
	require.NoError(t, c.close())

	s, err := Open(t.Context(), Config{Dir: dir})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	timers, err := s.DueTimers(t.Context(), []persistence.Partition{0}, due.Add(time.Hour), 10)
	require.NoError(t, err)
	require.Len(t, timers, 3)
	names := map[string]bool{}
	for _, timer := range timers {
		names[timer.Name] = true
		require.Equal(t, persistence.Stream{Type: "order", ID: "1"}, timer.Stream)
		require.Equal(t, []byte{timer.ID[0]}, timer.Payload)
		require.True(t, due.Add(time.Duration(timer.ID[0]/2)*time.Second).Equal(timer.Due))
	}
	require.Len(t, names, 3)
}
