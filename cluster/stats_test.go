package cluster

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
)

// A field of Stats has one metric, a field is found in no other, and whatever is
// no counter is a gauge.
func TestEveryCounterHasItsMetric(t *testing.T) {
	found := 0
	each := func(stats *Stats, v reflect.Value) {
		for i := range v.NumField() {
			name, field := v.Type().Field(i).Name, v.Field(i)
			if field.Kind() == reflect.Struct {
				continue
			}
			switch {
			case field.CanUint():
				field.SetUint(7)
			case field.Type() == reflect.TypeFor[time.Duration]():
				field.SetInt(int64(7 * time.Millisecond))
			default:
				field.SetInt(7)
			}
			metrics := 0
			for _, r := range readings {
				switch r.read(stats) {
				case 0:
				case 7:
					metrics++
					require.Equal(t, !field.CanUint(), r.gauge, "%s is %s", r.name, name)
				default:
					t.Errorf("%s is not %s alone", r.name, name)
				}
			}
			require.Equal(t, 1, metrics, "%s has its metric", name)
			found++
			field.SetZero()
		}
	}
	var stats Stats
	each(&stats, reflect.ValueOf(&stats).Elem())
	each(&stats, reflect.ValueOf(&stats.Host).Elem())
	require.Len(t, readings, found)
}

func TestCountersOfIncarnationsAddUp(t *testing.T) {
	ended := actor.Stats{Commits: 3, Held: 2, Resident: 9, InFlight: 9}
	require.Equal(t, actor.Stats{Commits: 7, Held: 2, Loads: 1, Resident: 5},
		total(ended, actor.Stats{Commits: 4, Loads: 1, Resident: 5}))
	require.Equal(t, actor.Stats{Commits: 3, Held: 2}, total(ended, actor.Stats{}))
}
