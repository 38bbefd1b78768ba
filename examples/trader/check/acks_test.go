package check_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/check"
)

func TestAcknowledgementsSurviveInFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store", "node.acks")
	log, err := check.CreateAckLog(path)
	require.NoError(t, err)
	want := check.Ack{Command: aggregate.NewCommandID(), Partition: 3, Offset: 77}
	require.NoError(t, log.Add(aggregate.Receipt{Command: want.Command, Partition: 3, Offset: 77}))
	require.NoError(t, log.Close())
	appendFile(t, path, "0190") // the write of a process that was killed
	var got []check.Ack
	require.NoError(t, check.ReadAcks(dir, func(a check.Ack) { got = append(got, a) }))
	require.Equal(t, []check.Ack{want}, got)

	require.NoError(t, check.ReadAcks(filepath.Join(dir, "nowhere"), func(check.Ack) { t.Fatal("none") }))
	appendFile(t, path, " nonsense\n")
	require.Error(t, check.ReadAcks(dir, func(check.Ack) {}))
}

func appendFile(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, file.Close())
}
