package archive

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/ingrain-go/ingrain/persistence"
)

// line is any line but the first.
type line struct {
	Partition *persistence.Partition `json:"partition,omitempty"`
	Offset    persistence.Offset     `json:"offset"`
	Epoch     persistence.Epoch      `json:"epoch"`
	Stream    string                 `json:"stream"`
	Stream64  []byte                 `json:"stream64"`
	Version   persistence.Version    `json:"version"`
	Type      string                 `json:"type"`
	Type64    []byte                 `json:"type64"`
	At        time.Time              `json:"at"`
	Command   string                 `json:"command"`
	Metadata  []byte                 `json:"metadata"`
	JSON      json.RawMessage        `json:"json"`
	Payload   []byte                 `json:"payload"`
	Sum       string                 `json:"sum"`

	Whole  bool   `json:"whole"`
	Events int64  `json:"events"`
	Hash   string `json:"hash"`
}

// appendEvent writes an event's line, without its end.
func appendEvent(b []byte, e *persistence.Event, sum string) []byte {
	b = append(b, `{"partition":`...)
	b = strconv.AppendInt(b, int64(e.Partition), 10)
	b = append(b, `,"offset":`...)
	b = strconv.AppendInt(b, int64(e.Offset), 10)
	b = append(b, `,"epoch":`...)
	b = strconv.AppendInt(b, int64(e.Epoch), 10)
	b = appendName(b, "stream", e.Stream.String())
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, int64(e.Version), 10)
	b = appendName(b, "type", e.Type)
	b = append(b, `,"at":"`...)
	b = e.At.UTC().Truncate(time.Microsecond).AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","command":"`...)
	b = hex.AppendEncode(b, e.Command[:])
	b = append(b, '"')
	if len(e.Metadata) > 0 {
		b = appendBytes(b, "metadata", e.Metadata)
	}
	switch {
	case len(e.Payload) == 0:
	case standsAsItIs(e.Payload):
		b = append(b, `,"json":`...)
		b = append(b, e.Payload...)
	default:
		b = appendBytes(b, "payload", e.Payload)
	}
	b = append(b, `,"sum":"`...)
	b = append(b, sum...)
	return append(b, `"}`...)
}

// standsAsItIs reports whether a payload can be read back byte for byte out of a
// line of JSON.
func standsAsItIs(payload []byte) bool {
	return !bytes.ContainsAny(payload, "\n\r") && len(bytes.TrimSpace(payload)) == len(payload) &&
		utf8.Valid(payload) && json.Valid(payload)
}

func appendName(b []byte, field, name string) []byte {
	if !utf8.ValidString(name) {
		return appendBytes(b, field+"64", []byte(name))
	}
	b = append(b, `,"`...)
	b = append(b, field...)
	b = append(b, `":`...)
	quoted, err := json.Marshal(name)
	if err != nil {
		panic(fmt.Sprintf("archive: a string cannot be quoted: %v", err))
	}
	return append(b, quoted...)
}

func appendBytes(b []byte, field string, bytes []byte) []byte {
	b = append(b, `,"`...)
	b = append(b, field...)
	b = append(b, `":"`...)
	b = base64.StdEncoding.AppendEncode(b, bytes)
	return append(b, '"')
}

// parse reads a line that is not the first.
func parse(text []byte) (line, error) {
	var l line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	switch err := d.Decode(&l); {
	case errors.Is(err, io.EOF):
		return l, errors.New("it is empty")
	case err != nil:
		return l, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return l, errors.New("there is something behind the object")
	}
	if l.Whole == (l.Partition != nil) {
		return l, errors.New("it is neither an event nor an end")
	}
	return l, nil
}

// event is what an event's line says.
func (l *line) event() (persistence.Event, error) {
	name, typ := l.Stream, l.Type
	if len(l.Stream64) > 0 {
		name = string(l.Stream64)
	}
	if len(l.Type64) > 0 {
		typ = string(l.Type64)
	}
	e := persistence.Event{
		Partition: *l.Partition, Offset: l.Offset, Epoch: l.Epoch, Version: l.Version,
		Type: typ, At: l.At.UTC(), Metadata: l.Metadata, Payload: l.Payload,
	}
	if len(l.JSON) > 0 {
		e.Payload = l.JSON
	}
	var err error
	if e.Stream, err = persistence.ParseStream(name); err != nil {
		return e, err
	}
	id, err := hex.DecodeString(l.Command)
	if err != nil || len(id) != len(e.Command) {
		return e, fmt.Errorf("%q is no command id", l.Command)
	}
	copy(e.Command[:], id)
	return e, nil
}

// reader reads an archive line by line and follows its chains.
type reader struct {
	in     *bufio.Reader
	header Header
	chains *chains
	number int64 // of the line that was read last
	length int64 // of what was read and found good
	torn   bool
	whole  bool // the last line said so
}

// open reads the first line.
func open(in io.Reader) (*reader, error) {
	r := &reader{in: bufio.NewReaderSize(in, 1<<16)}
	text, err := r.text()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &LineError{Line: 1, Err: errors.New("there is no whole first line")}
		}
		return nil, err
	}
	if err := json.Unmarshal(text, &r.header); err != nil {
		return nil, &LineError{Line: 1, Err: fmt.Errorf("it is no header: %w", err)}
	}
	if err := r.header.validate(); err != nil {
		return nil, &LineError{Line: 1, Err: err}
	}
	r.length = int64(len(text)) + 1
	r.chains = newChains(r.header.Partitions)
	return r, nil
}

// text returns the next whole line, without its end, or io.EOF.
func (r *reader) text() ([]byte, error) {
	var whole []byte
	for {
		part, err := r.in.ReadSlice('\n')
		whole = append(whole, part...)
		if len(whole) > maxLine {
			return nil, &LineError{Line: r.number + 1, Err: fmt.Errorf("it has more than %d bytes", maxLine)}
		}
		switch {
		case err == nil:
			r.number++
			return whole[:len(whole)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			r.torn = len(whole) > 0
			return nil, io.EOF
		default:
			return nil, err
		}
	}
}

// next returns the next event, or io.EOF.
func (r *reader) next() (persistence.Event, error) {
	for {
		text, err := r.text()
		if err != nil {
			return persistence.Event{}, err
		}
		l, err := parse(text)
		if err != nil {
			return persistence.Event{}, &LineError{Line: r.number, Err: err}
		}
		if l.Whole {
			if l.Events != r.chains.events() || l.Hash != r.chains.hash() {
				return persistence.Event{}, &LineError{Line: r.number, Err: fmt.Errorf("it ends %d events with hash %s, and there were %d with %s",
					l.Events, l.Hash, r.chains.events(), r.chains.hash())}
			}
			r.whole = true
			r.length += int64(len(text)) + 1
			continue
		}
		r.whole = false
		e, err := r.follow(&l)
		if err != nil {
			return e, &LineError{Line: r.number, Event: persistence.Cursor{Partition: *l.Partition, After: l.Offset}, Err: err}
		}
		r.length += int64(len(text)) + 1
		return e, nil
	}
}

// follow makes sure that a line is the next of its partition.
func (r *reader) follow(l *line) (persistence.Event, error) {
	e, err := l.event()
	if err != nil {
		return e, err
	}
	if e.Partition < 0 || int(e.Partition) >= len(r.chains.at) {
		return e, fmt.Errorf("the archive has %d partitions", len(r.chains.at))
	}
	at := &r.chains.at[e.Partition]
	if e.Offset != at.offset+1 {
		return e, fmt.Errorf("it follows offset %d", at.offset)
	}
	before := *at
	if sum := r.chains.add(&e).short(); sum != l.Sum {
		*at = before
		return e, fmt.Errorf("it is damaged, or one before it is not the one that was written: its sum is %s, not %s", sum, l.Sum)
	}
	return e, nil
}
