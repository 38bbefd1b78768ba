package archive

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ingrain-go/ingrain/persistence"
)

// State is how far an archive is: what Export needs to go on with it.
type State struct {
	Header Header
	// Length is how many bytes of the archive are good. What is behind them must
	// be cut off before Export goes on.
	Length int64
	// Whole says that nothing is missing up to there.
	Whole  bool
	chains *chains
}

// Events counts the archive's events.
func (s *State) Events() int64 { return s.chains.events() }

// Hash is of the archive's events; see the function of that name.
func (s *State) Hash() string { return s.chains.hash() }

// Offsets returns the last offset of each partition that is in the archive.
func (s *State) Offsets() []persistence.Offset {
	offsets := make([]persistence.Offset, len(s.chains.at))
	for i := range offsets {
		offsets[i] = s.chains.at[i].offset
	}
	return offsets
}

// Scan reads an archive, checks every line of it, and says how far it is. An
// archive that breaks off in a line is good up to that line. Any other damage is a
// *[LineError], and the state then says what is good before it.
func Scan(ctx context.Context, archive io.Reader) (*State, error) {
	r, err := open(archive)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		if n%batchEvents == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if _, err := r.next(); err != nil {
			state := &State{Header: r.header, Length: r.length, Whole: r.whole && !r.torn, chains: r.chains}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return state, err
		}
	}
}

// Export writes what the store's log holds at this moment. With a state it goes on
// behind what is in that archive already and writes no header: the writer appends
// to the archive, which has been cut to the state's length. The state is not
// changed. Every batch is flushed to the writer, and the line that the archive is
// whole comes last.
//
// A store may be exported while it is written to. It is not the moment of one
// transaction: each partition is as it was at one moment after the start.
func Export(ctx context.Context, store persistence.Store, archive io.Writer, goOn *State, progress Progress) (Summary, error) {
	meta := store.Meta()
	header := Header{Archive: mark, Format: Format, Store: meta.StoreID, Partitions: meta.Partitions}
	out := bufio.NewWriterSize(archive, 1<<16)
	chains := newChains(meta.Partitions)
	var after []persistence.Offset
	if goOn != nil {
		if goOn.Header != header {
			return Summary{}, fmt.Errorf("export store %s of %d partitions: the archive is of store %s, of %d, in format %d",
				meta.StoreID, meta.Partitions, goOn.Header.Store, goOn.Header.Partitions, goOn.Header.Format)
		}
		chains, after = goOn.chains.clone(), goOn.Offsets()
	} else if err := writeLine(out, header); err != nil {
		return Summary{}, fmt.Errorf("export store %s: %w", meta.StoreID, err)
	}
	var text []byte
	err := walk(ctx, store, after, progress, func(events []persistence.Event) error {
		for i := range events {
			text = append(appendEvent(text[:0], &events[i], chains.add(&events[i]).short()), '\n')
			if _, err := out.Write(text); err != nil {
				return err
			}
		}
		if cap(text) > batchBytes {
			text = nil
		}
		return out.Flush()
	})
	if err == nil {
		err = writeLine(out, struct {
			Whole  bool   `json:"whole"`
			Events int64  `json:"events"`
			Hash   string `json:"hash"`
		}{true, chains.events(), chains.hash()})
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return Summary{}, fmt.Errorf("export store %s: %w", meta.StoreID, err)
	}
	return Summary{Header: header, Events: chains.events(), Hash: chains.hash()}, nil
}

func writeLine(out *bufio.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}
