package eventsourcing

import (
	"encoding/json"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/ingrain-go/ingrain/aggregate"
)

// The codecs that come with the framework. Both are stateless.
var (
	// JSON is encoding/json: readable in the database, tolerant of added fields.
	JSON aggregate.Codec = jsonCodec{}
	// Protobuf is the wire format of Protocol Buffers, for proto.Message types.
	Protobuf aggregate.Codec = protobufCodec{}
)

var protoMessage = reflect.TypeFor[proto.Message]()

// CodecFor is the codec of a message: the one its definition names, else
// protobuf for proto.Message types, else JSON.
func CodecFor(m *aggregate.Message) aggregate.Codec {
	if c := m.Codec(); c != nil {
		return c
	}
	return codecOf(m.GoType())
}

// AnswerCodec is the codec of a message's result on the wire.
func AnswerCodec(m *aggregate.Message) aggregate.Codec { return codecOf(m.ResultType()) }

// StateCodec is the codec of an aggregate's state in snapshots.
func StateCodec(d *aggregate.Definition) aggregate.Codec {
	if c := d.Snapshots().Codec; c != nil {
		return c
	}
	return JSON
}

func codecOf(t reflect.Type) aggregate.Codec {
	if t != nil && t.Implements(protoMessage) {
		return Protobuf
	}
	return JSON
}

// FormCodec is the codec of a form of an event, earlier or current.
func FormCodec(m *aggregate.Message, version int) aggregate.Codec {
	if version == m.Version() || m.Codec() != nil {
		return CodecFor(m)
	}
	return codecOf(m.OldType(version))
}

type jsonCodec struct{}

func (jsonCodec) Name() string                           { return "json" }
func (jsonCodec) Marshal(value any) ([]byte, error)      { return json.Marshal(value) }
func (jsonCodec) Unmarshal(data []byte, value any) error { return json.Unmarshal(data, value) }

type protobufCodec struct{}

func (protobufCodec) Name() string { return "protobuf" }

func (protobufCodec) Marshal(value any) ([]byte, error) {
	m, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("protobuf: %T is not a proto.Message", value)
	}
	return proto.Marshal(m)
}

// Unmarshal takes a message, or a pointer to a message pointer, which it sets.
func (protobufCodec) Unmarshal(data []byte, value any) error {
	if m, ok := value.(proto.Message); ok {
		return proto.Unmarshal(data, m)
	}
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Pointer || !v.Type().Elem().Implements(protoMessage) {
		return fmt.Errorf("protobuf: cannot decode into %T", value)
	}
	m := reflect.New(v.Type().Elem().Elem())
	if err := proto.Unmarshal(data, m.Interface().(proto.Message)); err != nil {
		return err
	}
	v.Elem().Set(m)
	return nil
}

// EncodeMetadata gives metadata its stored form, JSON; nil when nothing is set.
func EncodeMetadata(m *aggregate.Metadata) ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	return b, nil
}

// DecodeMetadata undoes EncodeMetadata.
func DecodeMetadata(data []byte) (aggregate.Metadata, error) {
	if len(data) == 0 {
		return aggregate.Metadata{}, nil
	}
	var m aggregate.Metadata
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("decode metadata: %w", err)
	}
	return m, nil
}
