package aggregate

// Sealed has the events and snapshots of an aggregate encrypted, each aggregate
// for one subject: the person, or whoever else, that the data is about and that
// may have itself forgotten. The function names the subject of an aggregate by its
// id, the same for ever; one subject may have many aggregates, of many types. An
// empty subject seals nothing. When the subject is forgotten, its aggregates can
// be used no more.
//
// Sealed is payload only. The stream's name, event types, times, metadata, claims
// and timers stay readable: put nothing into them that is not to be read.
//
// A definition may become sealed later: events from before stay as they are, and
// readable. It must not become unsealed again. The state type must be named:
// aggregate.Sealed[Customer](func(id string) string { return id }).
func Sealed[S any](subject func(id string) string) Part[S] {
	return part[S](func(d *Definition) {
		if subject == nil {
			d.problem("Sealed without a function that names the subject")
			return
		}
		d.subject = subject
	})
}

// Seals reports whether the definition has a Sealed part.
func (d *Definition) Seals() bool { return d.subject != nil }

// Subject names whose data an aggregate is; empty when it is not sealed.
func (d *Definition) Subject(id string) string {
	if d.subject == nil {
		return ""
	}
	return d.subject(id)
}
