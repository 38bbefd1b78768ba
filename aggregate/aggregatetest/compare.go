package aggregatetest

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"unsafe"

	"google.golang.org/protobuf/proto"
)

var (
	protoMessage  = reflect.TypeFor[proto.Message]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// difference says where two values first differ, and how, as in ".Cents: 1, not
// 2"; "" when they are the same.
func difference(got, want any) string {
	c := comparison{seen: map[visit]bool{}}
	return c.walk("", reflect.ValueOf(got), reflect.ValueOf(want))
}

type comparison struct{ seen map[visit]bool }

type visit struct {
	a, b unsafe.Pointer
	typ  reflect.Type
}

func (c *comparison) walk(path string, a, b reflect.Value) string {
	if !a.IsValid() || !b.IsValid() {
		if a.IsValid() != b.IsValid() {
			return unequal(path, a, b)
		}
		return ""
	}
	if a.Type() != b.Type() {
		return fmt.Sprintf("%stype %s, not %s", at(path), a.Type(), b.Type())
	}
	a, b = open(a), open(b)
	if equal, known := byItself(a, b); known {
		if equal {
			return ""
		}
		return unequal(path, a, b)
	}
	switch a.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if a.Kind() == reflect.Pointer && a.IsNil() != b.IsNil() {
			return unequal(path, a, b)
		}
		if a.IsNil() || b.IsNil() {
			break
		}
		v := visit{a.UnsafePointer(), b.UnsafePointer(), a.Type()}
		if c.seen[v] && a.Kind() != reflect.Slice {
			return ""
		}
		c.seen[v] = true
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() {
			return ""
		}
		return c.walk(path, a.Elem(), b.Elem())
	case reflect.Interface:
		return c.walk(path, a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			name := a.Type().Field(i).Name
			if name == "_" {
				continue
			}
			if diff := c.walk(path+"."+name, field(a, i), field(b, i)); diff != "" {
				return diff
			}
		}
		return ""
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() {
			return fmt.Sprintf("%s%d elements, not %d: %s, not %s", at(path), a.Len(), b.Len(), showValue(a), showValue(b))
		}
		for i := range a.Len() {
			if diff := c.walk(fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i)); diff != "" {
				return diff
			}
		}
		return ""
	case reflect.Map:
		return c.walkMap(path, a, b)
	default:
		if !equalScalar(a, b) {
			return unequal(path, a, b)
		}
		return ""
	}
}

func (c *comparison) walkMap(path string, a, b reflect.Value) string {
	for iter := a.MapRange(); iter.Next(); {
		key := fmt.Sprintf("%s[%s]", path, showValue(iter.Key()))
		other := b.MapIndex(iter.Key())
		if !other.IsValid() {
			return fmt.Sprintf("%s%s, not nothing", at(key), showValue(iter.Value()))
		}
		if diff := c.walk(key, iter.Value(), other); diff != "" {
			return diff
		}
	}
	for iter := b.MapRange(); iter.Next(); {
		if !a.MapIndex(iter.Key()).IsValid() {
			return fmt.Sprintf("%snothing, not %s", at(fmt.Sprintf("%s[%s]", path, showValue(iter.Key()))), showValue(iter.Value()))
		}
	}
	return ""
}

// byItself asks those types that know better than their fields.
func byItself(a, b reflect.Value) (equal, known bool) {
	typ := a.Type()
	if typ.Kind() == reflect.Pointer && typ.Implements(protoMessage) && !a.IsNil() && !b.IsNil() {
		return proto.Equal(a.Interface().(proto.Message), b.Interface().(proto.Message)), true
	}
	if !opaque(typ) {
		return false, false
	}
	m, ok := typ.MethodByName("Equal")
	if !ok || m.Type.NumIn() != 2 || m.Type.In(1) != typ || m.Type.NumOut() != 1 || m.Type.Out(0).Kind() != reflect.Bool {
		return false, false
	}
	return m.Func.Call([]reflect.Value{a, b})[0].Bool(), true
}

// opaque types are values though they hold pointers: time.Time, netip.Addr, the
// usual decimals. They have no exported field, no map or slice of their own,
// and a text form.
func opaque(typ reflect.Type) bool {
	if typ.Kind() != reflect.Struct || !typ.Implements(textMarshaler) {
		return false
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.IsExported() || f.Type.Kind() == reflect.Map || f.Type.Kind() == reflect.Slice {
			return false
		}
	}
	return true
}

func equalScalar(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		x, y := a.Float(), b.Float()
		return x == y || x != x && y != y
	case reflect.Func:
		return a.UnsafePointer() == b.UnsafePointer()
	default: // numbers, strings, booleans, channels, unsafe pointers
		return a.Equal(b)
	}
}

// open returns a value whose fields can be read, exported or not.
func open(v reflect.Value) reflect.Value {
	if v.CanAddr() {
		return v
	}
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

func field(v reflect.Value, i int) reflect.Value {
	f := v.Field(i)
	if f.CanInterface() {
		return f
	}
	return reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem()
}

func unequal(path string, a, b reflect.Value) string {
	return fmt.Sprintf("%s%s, not %s", at(path), showValue(a), showValue(b))
}

func at(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

func showValue(v reflect.Value) string {
	if !v.IsValid() {
		return "nil"
	}
	if v.Kind() == reflect.Interface {
		return showValue(v.Elem())
	}
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return fmt.Sprint(v)
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	}
	return show(v.Interface())
}

// show writes a value as a domain author would.
func show(v any) string {
	const limit = 400
	var text string
	value := reflect.ValueOf(v)
	switch m, isProto := v.(proto.Message); {
	case isProto && !value.IsNil():
		text = fmt.Sprintf("%T{%v}", v, m)
	case value.Kind() == reflect.Pointer && !value.IsNil():
		text = fmt.Sprintf("&%T%s", value.Elem().Interface(), inBrackets(strings.TrimPrefix(fmt.Sprintf("%+v", v), "&")))
	case value.Kind() == reflect.Struct:
		text = fmt.Sprintf("%T%s", v, inBrackets(fmt.Sprintf("%+v", v)))
	default:
		text = fmt.Sprintf("%#v", v)
	}
	if len(text) > limit {
		text = text[:limit] + "..."
	}
	return text
}

// inBrackets sets what a value says of itself apart from the name of its type;
// fields come in brackets anyway.
func inBrackets(text string) string {
	if strings.HasPrefix(text, "{") {
		return text
	}
	return "(" + text + ")"
}
