package aggregatetest

import (
	"fmt"
	"slices"
	"strings"
)

// compareSchemas sorts what has changed into what old bytes do not survive, and
// what they do, with what to do about it.
func compareSchemas(name string, before, now schema) (refused, accepted []string) {
	for i := range before {
		old := &before[i]
		bad, good := compareEntry(name, old, successor(old, now))
		refused, accepted = append(refused, bad...), append(accepted, good...)
	}
	for i := range now {
		e := &now[i]
		if predecessor(e, before) == nil {
			accepted = append(accepted, fmt.Sprintf("  %s is new", e.key()))
		}
	}
	return refused, accepted
}

func isStored(kind string) bool {
	return kind == kindEvent || kind == kindRetired || kind == kindDropped
}

// successor finds what has become of an entry: an event may have been retired, or
// dropped in all its forms.
func successor(old *entry, now schema) *entry {
	if e := now.find(old.key()); e != nil || !isStored(old.kind) {
		return e
	}
	base, _, _ := strings.Cut(old.name, "/")
	for _, key := range []string{kindEvent + " " + old.name, kindRetired + " " + old.name, kindDropped + " " + base} {
		if e := now.find(key); e != nil {
			return e
		}
	}
	return nil
}

// predecessor finds what an entry was before.
func predecessor(e *entry, before schema) *entry {
	if old := before.find(e.key()); old != nil || !isStored(e.kind) {
		return old
	}
	for i := range before {
		old := &before[i]
		base, _, _ := strings.Cut(old.name, "/")
		if isStored(old.kind) && (old.name == e.name || e.kind == kindDropped && base == e.name) {
			return old
		}
	}
	return nil
}

func compareEntry(name string, old, e *entry) (refused, accepted []string) {
	lost, added := fieldChanges(old, e)
	switch {
	case old.kind == kindState:
		return compareState(name, old, e, lost, added)
	case !isStored(old.kind):
		return nil, compareSent(old, e, lost, added)
	case e == nil:
		base, _, _ := strings.Cut(old.name, "/")
		return []string{fmt.Sprintf("  %s is gone, and it is in the log.\n"+
			"    Keep it readable: by Records or From as it was, or by aggregate.Retires(%q, ...) as the events that it is\n"+
			"    today, or, if it means nothing any more, by aggregate.Drops(%q).", old.key(), base, base)}, nil
	case old.kind == kindDropped && e.kind != kindDropped:
		return []string{fmt.Sprintf("  %s is an event again. A stored name never gets another meaning: take a new one.", old.key())}, nil
	case old.kind == kindRetired && e.kind == kindEvent:
		return []string{fmt.Sprintf("  %s is recorded again. A stored name never gets another meaning: take a new one.", old.key())}, nil
	case e.kind == kindDropped:
		return nil, changed(old.kind != e.kind, "  %s is dropped: what is stored of it means nothing any more", old.key())
	}
	if codec(old) != codec(e) || len(lost) > 0 {
		return []string{fmt.Sprintf("  %s has changed, and is in the log as it was:%s\n    %s", old.key(), diffOf(old, e, lost, added), adviceForEvent(old))}, nil
	}
	accepted = changed(old.kind != e.kind, "  %s is retired", old.key())
	accepted = append(accepted, changed(old.kind == e.kind && old.about != e.about, "  %s was %q, is %q", old.key(), old.about, e.about)...)
	accepted = append(accepted, changed(len(added) > 0, "  %s has more fields. Old events have their zero value; if that is wrong for them, make a new form\n"+
		"    instead:%s\n    %s", old.key(), diffOf(old, e, nil, added), adviceForEvent(old))...)
	return nil, accepted
}

func adviceForEvent(old *entry) string {
	base, version, _ := strings.Cut(old.name, "/")
	if version == "" {
		version = "1"
	}
	return fmt.Sprintf("Make a new form: keep the type as it was under another name, and lead from it by\n"+
		"    aggregate.From(%s, func(old ...) ... {...}) at event %q; or undo the change; or record a new event under a new\n"+
		"    name. If nothing was ever stored in this form, or all of it reads the same, take it out of the file.", version, base)
}

// compareState wants another Schema for another state: a snapshot that decodes
// into something wrong is worse than none.
func compareState(name string, old, e *entry, lost, added []string) (refused, accepted []string) {
	if e == nil {
		return nil, []string{"  no snapshots are taken any more"}
	}
	same := schemaNumber(old) == schemaNumber(e)
	if same && (len(lost)+len(added) > 0 || codec(old) != codec(e)) {
		return []string{fmt.Sprintf("  the state has changed, and its snapshots are stored as it was:%s\n"+
			"    Count up the Schema in aggregate.Snapshots of %q, so that they are not used. If none was ever stored, or all of\n"+
			"    them decode to what a replay would make, take the state out of the file.", diffOf(old, e, lost, added), name)}, nil
	}
	return nil, changed(old.about != e.about || len(lost)+len(added) > 0, "  the state was %q, is %q: old snapshots are not used", old.about, e.about)
}

// compareSent is about what is only on the wire while two versions of a program
// run, and in timers.
func compareSent(old, e *entry, lost, added []string) []string {
	switch {
	case e == nil:
		return []string{fmt.Sprintf("  %s is gone. Nodes of the former version still send it during a rolling upgrade, and timers may hold it.", old.key())}
	case codec(old) != codec(e) || len(lost)+len(added) > 0:
		return []string{fmt.Sprintf("  %s has changed. Nodes of both versions send it to each other during a rolling upgrade, and timers may hold\n"+
			"    it: each has to do without what it does not find:%s", old.key(), diffOf(old, e, lost, added))}
	}
	return nil
}

func changed(is bool, format string, args ...any) []string {
	if !is {
		return nil
	}
	return []string{fmt.Sprintf(format, args...)}
}

// fieldChanges is which fields are gone or others, and which have come.
func fieldChanges(old, e *entry) (lost, added []string) {
	if e == nil || e.kind == kindDropped {
		return nil, nil
	}
	for _, f := range old.fields {
		if !slices.Contains(e.fields, f) {
			lost = append(lost, f)
		}
	}
	for _, f := range e.fields {
		if !slices.Contains(old.fields, f) {
			added = append(added, f)
		}
	}
	return lost, added
}

func diffOf(old, e *entry, lost, added []string) string {
	var b strings.Builder
	if codec(old) != codec(e) {
		fmt.Fprintf(&b, "\n      - %s\n      + %s", codec(old), codec(e))
	}
	for _, f := range lost {
		fmt.Fprintf(&b, "\n      - %s", f)
	}
	for _, f := range added {
		fmt.Fprintf(&b, "\n      + %s", f)
	}
	return b.String()
}

func codec(e *entry) string {
	name, _, _ := strings.Cut(e.about, ",")
	return name
}

func schemaNumber(e *entry) string {
	_, number, _ := strings.Cut(e.about, ", schema ")
	return number
}
