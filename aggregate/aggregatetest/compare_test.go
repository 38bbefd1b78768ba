package aggregatetest

import (
	"errors"
	"math"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type tree struct {
	Name  string
	Kids  []*tree
	Attrs map[string]any
	hid   struct{ n int }
	fn    func()
}

// money is a value although it holds a pointer, as decimals do.
type money struct{ units *big.Int }

func (m money) MarshalText() ([]byte, error) { return m.units.MarshalText() }
func (m money) Equal(n money) bool           { return m.big().Cmp(n.big()) == 0 }

func (m money) big() *big.Int {
	if m.units == nil {
		return new(big.Int)
	}
	return m.units
}

func TestDifference(t *testing.T) {
	now := time.Now()
	ring := &tree{Name: "ring"}
	ring.Kids = []*tree{ring}
	twin := &tree{Name: "ring"}
	twin.Kids = []*tree{twin}
	for name, c := range map[string]struct {
		got, want any
		diff      string
	}{
		"equal":                {tree{Name: "a", Attrs: map[string]any{"x": 1}}, tree{Name: "a", Attrs: map[string]any{"x": 1}}, ""},
		"nil and empty":        {tree{Kids: []*tree{}, Attrs: map[string]any{}}, tree{}, ""},
		"clock reading, zone":  {now, now.Round(0).UTC(), ""},
		"times":                {time.Unix(1, 0).UTC(), time.Unix(2, 0).UTC(), "time.Time(1970-01-01 00:00:01 +0000 UTC), not time.Time(1970-01-01 00:00:02 +0000 UTC)"},
		"time in a field":      {struct{ At time.Time }{time.Unix(1, 0).UTC()}, struct{ At time.Time }{}, ".At: time.Time(1970-"},
		"pointer to a time":    {[]any{&now}, []any{nil}, "[0]: &time.Time("},
		"zero of a value":      {money{}, money{new(big.Int)}, ""},
		"values":               {money{big.NewInt(1)}, money{big.NewInt(2)}, "money"},
		"addresses":            {netip.MustParseAddr("fe80::1%a"), netip.MustParseAddr("fe80::1%a"), ""},
		"addresses differ":     {netip.MustParseAddr("::1"), netip.MustParseAddr("::2"), ".addr"},
		"NaN":                  {math.NaN(), math.NaN(), ""},
		"messages":             {wrapperspb.Int64(1), wrapperspb.Int64(1), ""},
		"messages differ":      {[]any{wrapperspb.Int64(1)}, []any{wrapperspb.Int64(2)}, "[0]: "},
		"rings":                {ring, twin, ""},
		"nil interface":        {error(nil), error(nil), ""},
		"error and nil":        {errors.New("x"), nil, "not nil"},
		"types":                {int32(1), int64(1), "type int32, not int64"},
		"number":               {1, 2, "1, not 2"},
		"deep":                 {tree{Kids: []*tree{{Name: "a"}}}, tree{Kids: []*tree{{Name: "b"}}}, `.Kids[0].Name: "a", not "b"`},
		"unexported":           {tree{hid: struct{ n int }{1}}, tree{}, ".hid.n: 1, not 0"},
		"nil pointer":          {tree{Kids: []*tree{nil}}, tree{Kids: []*tree{{}}}, ".Kids[0]: "},
		"missing key":          {map[string]int{"a": 1}, map[string]int{"b": 1}, `["a"]: 1, not nothing`},
		"additional key":       {map[string]int{}, map[string]int{"b": 1}, `["b"]: nothing, not 1`},
		"type in an interface": {map[string]any{"a": 1}, map[string]any{"a": "1"}, `["a"]: type int, not string`},
		"functions":            {tree{fn: func() {}}, tree{}, ".fn"},
	} {
		t.Run(name, func(t *testing.T) {
			diff := difference(c.got, c.want)
			if c.diff == "" {
				require.Empty(t, diff)
			}
			require.Contains(t, diff, c.diff)
		})
	}
}

func TestSharedMemory(t *testing.T) {
	numbers := make([]int, 3, 8)
	attrs := map[string]any{"deep": []string{"x"}}
	leaf := &tree{Name: "leaf", Attrs: attrs}
	message := wrapperspb.Bytes([]byte("abc"))
	amount := money{big.NewInt(1)}
	state := &struct {
		Numbers []int
		Tree    tree
		Grid    [2][]int
		private map[int]*tree
		Message *wrapperspb.BytesValue
		Amount  money
		At      time.Time
	}{
		Numbers: numbers, Tree: tree{Kids: []*tree{leaf}}, Grid: [2][]int{nil, {1}},
		private: map[int]*tree{1: {}}, Message: message, Amount: amount, At: time.Now(),
	}
	for name, c := range map[string]struct {
		answer any
		in     string // path in the state, "" when nothing is shared
	}{
		"nothing":               {[]int{1, 2, 3}, ""},
		"a number":              {state.Numbers[1], ""},
		"a string":              {leaf.Name, ""},
		"a value":               {amount, ""},
		"a time":                {state.At, ""},
		"nil":                   {nil, ""},
		"an empty slice":        {[]int{}, ""},
		"another message":       {wrapperspb.Bytes([]byte("abc")), ""},
		"the slice":             {numbers, ".Numbers"},
		"its end":               {numbers[2:], ".Numbers"},
		"its spare capacity":    {numbers[3:], ".Numbers"},
		"an element":            {&numbers[2], ".Numbers"},
		"a map":                 {attrs, ".Tree.Kids[0].Attrs"},
		"something in a map":    {attrs["deep"], `.Tree.Kids[0].Attrs["deep"]`},
		"a pointer, deep":       {map[string][]*tree{"a": {nil, leaf}}, ".Tree.Kids[0]"},
		"a slice in an array":   {state.Grid, ".Grid[1]"},
		"what is not exported":  {state.private[1], ".private[1]"},
		"a message":             {message, ".Message"},
		"the bytes of one":      {message.GetValue(), ".Message.Value"},
		"the memory of a value": {amount.units, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, in, shared := sharedMemory(c.answer, state)
			require.Equal(t, c.in, in)
			require.Equal(t, c.in != "", shared)
		})
	}
}
