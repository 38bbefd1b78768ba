package check

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
)

// AckLog is a file of acknowledgements, written line by line without a buffer,
// so that it survives the end of its process, though not that of its machine.
// It is safe for concurrent use, since a line is one write in append mode.
type AckLog struct{ file *os.File }

// CreateAckLog makes the file and the folders above it.
func CreateAckLog(path string) (*AckLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create acknowledgement log: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create acknowledgement log: %w", err)
	}
	return &AckLog{file: file}, nil
}

// Add writes one acknowledgement.
func (l *AckLog) Add(r aggregate.Receipt) error {
	line := make([]byte, 0, 64)
	line = append(line, r.Command.String()...)
	line = fmt.Appendf(line, " %d %d\n", r.Partition, r.Offset)
	if _, err := l.file.Write(line); err != nil {
		return fmt.Errorf("write acknowledgement log: %w", err)
	}
	return nil
}

// Close closes the file.
func (l *AckLog) Close() error { return l.file.Close() }

// ReadAcks calls yield for every acknowledgement in the files of a folder. An
// unfinished last line, of a process that was killed, is ignored; any other
// line that is none is an error. A folder that does not exist holds none.
func ReadAcks(dir string, yield func(Ack)) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".acks") {
			return err
		}
		return readAcks(path, yield)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read acknowledgements: %w", err)
	}
	return nil
}

func readAcks(path string, yield func(Ack)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for lines, n := bufio.NewReader(file), 1; ; n++ {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var id string
		var a Ack
		if _, err := fmt.Sscanf(line, "%s %d %d\n", &id, &a.Partition, &a.Offset); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if a.Command, err = aggregate.ParseCommandID(id); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		yield(a)
	}
}
