package aggregatetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
)

// UpdateSchemas is the environment variable that lets [Schema] write what may be
// written: INGRAIN_UPDATE=1 go test ./...
const UpdateSchemas = "INGRAIN_UPDATE"

// Schema holds what aggregates store and send against what they did before, which
// stands in testdata/<name>.schema: every command, query and event in every form,
// and the snapshot's state, with stored names, codecs, field names and types. Go
// types and the order of the definition are not in it: they may change at will.
//
// Any difference fails the test and says what to do. What old bytes survive (a new
// form, a new command, an added field whose zero value is right) is written into
// the file when [UpdateSchemas] is set. What they do not survive is refused all the
// same: a form that changed or is gone, a state that changed under the same
// Schema. Who knows better, because nothing was ever stored in it, takes its lines
// out of the file.
//
// Check the file in: its diff is what a reviewer looks at.
func Schema(t testing.TB, types ...aggregate.Any) {
	t.Helper()
	if err := aggregate.Validate(types...); err != nil {
		t.Fatalf("the definition is wrong:\n%v", err)
	}
	for _, typ := range types {
		d := typ.Definition()
		checkSchema(t, d, filepath.Join("testdata", d.Name()+".schema"), os.Getenv(UpdateSchemas) != "")
	}
}

func checkSchema(t testing.TB, d *aggregate.Definition, file string, update bool) {
	t.Helper()
	now := schemaOf(d)
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && update:
	case errors.Is(err, fs.ErrNotExist):
		t.Errorf("aggregate %q has no schema file %s yet: write it with %s=1, and check it in", d.Name(), file, UpdateSchemas)
		return
	case err != nil:
		t.Errorf("aggregate %q: %v", d.Name(), err)
		return
	}
	before := parseSchema(string(b))
	refused, accepted := compareSchemas(d.Name(), before, now)
	if len(refused) > 0 {
		t.Errorf("aggregate %q does not read what it has stored (%s):\n%s", d.Name(), file, strings.Join(refused, "\n"))
		return
	}
	text := now.text(d.Name())
	if text == string(b) {
		return
	}
	if !update {
		if len(accepted) == 0 {
			accepted = []string{"  the file is not as it would be written"}
		}
		t.Errorf("the schema of aggregate %q has changed, and old bytes can be read. If this is meant, write %s with %s=1:\n%s",
			d.Name(), file, UpdateSchemas, strings.Join(accepted, "\n"))
		return
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Errorf("aggregate %q: %v", d.Name(), err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil { //nolint:gosec // it is checked in
		t.Errorf("aggregate %q: %v", d.Name(), err)
	}
}

// schema is what one aggregate stores and sends.
type schema []entry

// entry is one thing that has bytes: "event deposited/2".
type entry struct {
	kind, name string
	// about is the codec and whatever else is to know.
	about  string
	fields []string
}

func (e *entry) key() string { return strings.TrimSpace(e.kind + " " + e.name) }

func (s schema) find(key string) *entry {
	for i := range s {
		if s[i].key() == key {
			return &s[i]
		}
	}
	return nil
}

func (s schema) text(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What aggregate %q stores and sends: see aggregatetest.Schema.\n", name)
	for i := range s {
		e := &s[i]
		fmt.Fprintf(&b, "\n%s: %s\n", e.key(), e.about)
		for _, f := range e.fields {
			fmt.Fprintf(&b, "\t%s\n", f)
		}
	}
	return b.String()
}

func parseSchema(text string) (s schema) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "\t"):
			if len(s) > 0 {
				last := &s[len(s)-1]
				last.fields = append(last.fields, strings.TrimSpace(line))
			}
		default:
			key, about, _ := strings.Cut(line, ": ")
			kind, name, _ := strings.Cut(key, " ")
			s = append(s, entry{kind: kind, name: name, about: about})
		}
	}
	return s
}

// The kinds of entries, in the order of the file.
const (
	kindState   = "state"
	kindEvent   = "event"
	kindRetired = "retired"
	kindDropped = "dropped"
	kindCommand = "command"
	kindQuery   = "query"
	kindAnswer  = "answer"
)

var kindOrder = []string{kindState, kindEvent, kindRetired, kindDropped, kindCommand, kindQuery, kindAnswer}

// schemaOf describes a definition.
func schemaOf(d *aggregate.Definition) (s schema) {
	if p := d.Snapshots(); !p.Off {
		codec := eventsourcing.StateCodec(d)
		s = append(s, entry{kind: kindState, about: fmt.Sprintf("%s, schema %d", codec.Name(), p.Schema), fields: fieldsOf(codec, d.StateType())})
	}
	for _, m := range d.Messages() {
		switch m.Kind() {
		case aggregate.KindEvent:
			s = append(s, formsOf(m)...)
			continue
		case aggregate.KindCommand:
			s = append(s, messageOf(kindCommand, m))
		case aggregate.KindQuery:
			s = append(s, messageOf(kindQuery, m))
		}
		if m.Answers() {
			codec := eventsourcing.AnswerCodec(m)
			s = append(s, entry{kind: kindAnswer, name: "of " + m.Name(), about: codec.Name(), fields: fieldsOf(codec, m.ResultType())})
		}
	}
	slices.SortStableFunc(s, func(a, b entry) int {
		if a.kind != b.kind {
			return slices.Index(kindOrder, a.kind) - slices.Index(kindOrder, b.kind)
		}
		return strings.Compare(a.name, b.name)
	})
	return s
}

func messageOf(kind string, m *aggregate.Message) entry {
	codec := eventsourcing.CodecFor(m)
	return entry{kind: kind, name: m.Name(), about: codec.Name(), fields: fieldsOf(codec, m.GoType())}
}

// formsOf describes every form of an event.
func formsOf(m *aggregate.Message) (forms []entry) {
	if m.Dropped() {
		return []entry{{kind: kindDropped, name: m.Name(), about: "means nothing any more"}}
	}
	for version := 1; version <= m.Version(); version++ {
		e := entry{kind: kindEvent, name: m.Name()}
		if version > 1 {
			e.name = fmt.Sprintf("%s/%d", m.Name(), version)
		}
		typ := m.GoType()
		if version < m.Version() {
			typ = m.OldType(version)
		}
		codec := eventsourcing.FormCodec(m, version)
		e.about = codec.Name()
		switch {
		case m.Retired():
			e.kind = kindRetired
		case version < m.Version():
			e.about += ", former"
		case len(m.Forms()) > 1:
			e.about += ", stored as " + m.StoredName()
		}
		e.fields = fieldsOf(codec, typ)
		forms = append(forms, e)
	}
	return forms
}
