package aggregatetest

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingrain-go/ingrain/aggregate"
)

// fieldsOf lists what a codec writes of a type, one line for each field: its name
// on the outside, and what stands there.
func fieldsOf(codec aggregate.Codec, typ reflect.Type) []string {
	if message, ok := protoOf(typ); ok {
		return protoFields("", message.ProtoReflect().Descriptor(), nil)
	}
	if codec.Name() == "protobuf" {
		return []string{"value protobuf of " + typ.String()}
	}
	return jsonFields("", typ, nil)
}

func protoOf(typ reflect.Type) (proto.Message, bool) {
	if typ.Kind() != reflect.Pointer {
		return nil, false
	}
	m, ok := reflect.New(typ.Elem()).Interface().(proto.Message)
	return m, ok
}

// protoFields lists fields by their numbers, which are what is stored.
func protoFields(path string, d protoreflect.MessageDescriptor, inside []protoreflect.FullName) (lines []string) {
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := fmt.Sprintf("%s%d", path, f.Number())
		kind := f.Kind().String()
		switch {
		case f.IsMap():
			kind = fmt.Sprintf("map of %s to %s", f.MapKey().Kind(), f.MapValue().Kind())
		case f.IsList():
			kind = "repeated " + kind
		}
		nested := f.Message()
		if f.IsMap() {
			nested = f.MapValue().Message()
		}
		line := fmt.Sprintf("%s %s %s", name, kind, f.Name())
		if f.Enum() != nil {
			line += " " + string(f.Enum().FullName())
		}
		if nested == nil {
			lines = append(lines, line)
			continue
		}
		if slices.Contains(inside, nested.FullName()) {
			lines = append(lines, line+" "+string(nested.FullName())+", as above")
			continue
		}
		lines = append(lines, line)
		lines = append(lines, protoFields(name+".", nested, append(inside, d.FullName()))...)
	}
	return lines
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	jsonText      = reflect.TypeFor[encoding.TextMarshaler]()
	opaqueJSON    = map[reflect.Type]string{
		reflect.TypeFor[time.Time]():       "time",
		reflect.TypeFor[json.RawMessage](): "any JSON",
		reflect.TypeFor[json.Number]():     "number",
	}
)

// jsonFields lists what encoding/json writes.
func jsonFields(path string, typ reflect.Type, inside []reflect.Type) []string {
	line := func(what string) []string {
		if path == "" {
			return []string{"value " + what}
		}
		return []string{path + " " + what}
	}
	if what := opaqueJSON[typ]; what != "" {
		return line(what)
	}
	if typ.Implements(jsonMarshaler) || typ.Kind() != reflect.Pointer && reflect.PointerTo(typ).Implements(jsonMarshaler) {
		return line("JSON of its own, by " + typ.String())
	}
	if typ.Implements(jsonText) || typ.Kind() != reflect.Pointer && reflect.PointerTo(typ).Implements(jsonText) {
		return line("text of its own, by " + typ.String())
	}
	if slices.Contains(inside, typ) {
		return line("as above")
	}
	inside = append(inside, typ)
	if path == "" && typ.Kind() != reflect.Struct && typ.Kind() != reflect.Pointer {
		path = "value"
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return jsonFields(path, typ.Elem(), inside)
	case reflect.Slice, reflect.Array:
		if typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Uint8 {
			return line("bytes")
		}
		return jsonFields(path+"[]", typ.Elem(), inside)
	case reflect.Map:
		return jsonFields(fmt.Sprintf("%s{%s}", path, typ.Key().Kind()), typ.Elem(), inside)
	case reflect.Struct:
		return structFields(path, typ, inside)
	case reflect.Interface:
		return line("any JSON")
	default:
		return line(typ.Kind().String())
	}
}

func structFields(path string, typ reflect.Type, inside []reflect.Type) (lines []string) {
	if path != "" {
		path += "."
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Tag.Get("json") == "-" {
			continue
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if f.Anonymous && tag == "" && inner.Kind() == reflect.Struct && opaqueJSON[inner] == "" {
			lines = append(lines, structFields(strings.TrimSuffix(path, "."), inner, append(inside, inner))...)
			continue
		}
		if !f.IsExported() {
			continue
		}
		name := f.Name
		if tag != "" {
			name = tag
		}
		found := jsonFields(path+name, f.Type, inside)
		if slices.Contains(strings.Split(options, ","), "string") {
			for i := range found {
				found[i] += " in a string"
			}
		}
		lines = append(lines, found...)
	}
	return lines
}
