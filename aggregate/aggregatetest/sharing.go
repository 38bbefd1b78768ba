package aggregatetest

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// sharedMemory finds something that both values refer to, by its path in the
// answer and in the state. Strings and opaque values may be shared, since nobody
// can change them.
func sharedMemory(answer, state any) (inAnswer, inState string, shared bool) {
	known := regionsOf(state)
	slices.SortFunc(known, func(a, b region) int { return cmp.Compare(a.from, b.from) })
	// reach[i] is the furthest end among known[:i+1].
	reach := make([]uintptr, len(known))
	for i, k := range known {
		reach[i] = k.to
		if i > 0 {
			reach[i] = max(reach[i], reach[i-1])
		}
	}
	for _, r := range regionsOf(answer) {
		i := sort.Search(len(known), func(i int) bool { return known[i].from >= r.to }) - 1
		if i < 0 || reach[i] <= r.from {
			continue
		}
		for ; i >= 0; i-- {
			if known[i].to > r.from {
				return r.path, known[i].path, true
			}
		}
	}
	return "", "", false
}

// region is memory that a value refers to: from inclusive, to exclusive.
type region struct {
	from, to uintptr
	path     string
}

func regionsOf(v any) []region {
	m := memory{seen: map[visit]bool{}}
	m.walk("", reflect.ValueOf(v))
	return m.regions
}

type memory struct {
	regions []region
	seen    map[visit]bool
}

func (m *memory) walk(path string, v reflect.Value) {
	if !v.IsValid() || opaque(v.Type()) || strings.HasPrefix(v.Type().PkgPath(), "google.golang.org/protobuf/internal") {
		return
	}
	v = open(v)
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && m.enter(path, v, v.Type().Elem().Size()) {
			m.walk(path, v.Elem())
		}
	case reflect.Slice:
		if v.Cap() > 0 && m.enter(path, v, uintptr(v.Cap())*v.Type().Elem().Size()) {
			m.walkElements(path, v)
		}
	case reflect.Map:
		if !v.IsNil() && m.enter(path, v, 1) {
			for iter := v.MapRange(); iter.Next(); {
				key := fmt.Sprintf("%s[%s]", path, showValue(iter.Key()))
				m.walk(key, iter.Key())
				m.walk(key, iter.Value())
			}
		}
	case reflect.Chan:
		if !v.IsNil() {
			m.enter(path, v, 1)
		}
	case reflect.Interface:
		m.walk(path, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			m.walk(path+"."+v.Type().Field(i).Name, field(v, i))
		}
	case reflect.Array:
		m.walkElements(path, v)
	}
}

func (m *memory) walkElements(path string, v reflect.Value) {
	if !refers(v.Type().Elem()) {
		return
	}
	for i := range v.Len() {
		m.walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
	}
}

// enter notes what v points to, and reports whether it is new.
func (m *memory) enter(path string, v reflect.Value, size uintptr) bool {
	at := visit{a: v.UnsafePointer(), typ: v.Type()}
	if v.Kind() != reflect.Slice && m.seen[at] {
		return false
	}
	m.seen[at] = true
	if size > 0 {
		from := uintptr(v.UnsafePointer())
		m.regions = append(m.regions, region{from, from + size, path})
	}
	return true
}

// refers reports whether values of the type may refer to other memory.
func refers(typ reflect.Type) bool {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Chan, reflect.Interface, reflect.Struct, reflect.Array:
		return true
	}
	return false
}
