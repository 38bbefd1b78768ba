package aggregatetest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

// What the aggregates of these tests store and send.
func TestTheSchemaOfAnAccountIsKept(t *testing.T) {
	aggregatetest.Schema(t, Accounts)
}

// till is an aggregate in all its versions.
type till struct{ Cents int64 }

type tillEvent = aggregate.Event[till]

type pay struct{ Cents int64 }

func (c pay) Decide(till) ([]tillEvent, error) { return []tillEvent{paid{Cents: c.Cents}}, nil }

type paid struct {
	Cents int64
	At    time.Time `json:"at"`
	Lines []line    `json:",omitempty"`
	Tags  map[string]*line
	skip  int //nolint:unused // not stored
	Raw   any
	None  int   `json:"-"`
	Big   int64 `json:",string"`
	line
}

type line struct {
	Text string
	Next *line
}

func (e paid) Evolve(s *till) { s.Cents += e.Cents }

type paidMore struct {
	paid
	Tip int64
}

func (e paidMore) Evolve(s *till) { s.Cents += e.Cents + e.Tip }

type paidLess struct{ Dollars int64 }

func (e paidLess) Evolve(s *till) { s.Cents += 100 * e.Dollars }

type named struct{ wrapperspb.StringValue }

func (e *named) Evolve(*till) {}

func (pay) Answer(s till) (int64, error) { return s.Cents, nil }

// define makes the till, with an event under the name "paid".
func define[E tillEvent](settings ...aggregate.Setting) aggregate.Any {
	return aggregate.Define("till", aggregate.Accepts[pay]("pay"), aggregate.Records[E]("paid", settings...), aggregate.Records[*named]("named"))
}

func upgraded(old paid) paidLess   { return paidLess{old.Cents / 100} }
func downgraded(new paidLess) paid { return paid{Cents: 100 * new.Dollars} }
func today(old paid) []tillEvent   { return []tillEvent{paidLess{old.Cents / 100}} }
func within(t *testing.T) (file string) {
	dir := t.TempDir()
	t.Chdir(dir)
	return filepath.Join(dir, "testdata", "till.schema")
}

func check(t *testing.T, update string, typ aggregate.Any) string {
	t.Helper()
	t.Setenv(aggregatetest.UpdateSchemas, update)
	return failureOf(t, func(t testing.TB) { aggregatetest.Schema(t, typ) })
}

func TestASchemaIsReadable(t *testing.T) {
	file := within(t)
	require.Contains(t, check(t, "", define[paid]()), "write it with INGRAIN_UPDATE=1")
	require.Empty(t, check(t, "1", define[paid]()))
	require.Empty(t, check(t, "", define[paid]()))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, `# What aggregate "till" stores and sends: see aggregatetest.Schema.

state: json, schema 0
	Cents int64

event named: protobuf
	1 string value

event paid: json
	Cents int64
	at time
	Lines[].Text string
	Lines[].Next as above
	Tags{string}.Text string
	Tags{string}.Next as above
	Raw any JSON
	Big int64 in a string
	Text string
	Next as above

command pay: json
	Cents int64

answer of pay: json
	value int64
`, string(text))
}

func TestAChangedFormIsRefused(t *testing.T) {
	file := within(t)
	require.Empty(t, check(t, "1", define[paid]()))
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, update := range []string{"", "1"} {
		failure := check(t, update, define[paidLess]())
		require.Contains(t, failure, "event paid has changed, and is in the log as it was")
		require.Contains(t, failure, "- Cents int64")
		require.Contains(t, failure, "+ Dollars int64")
		require.Contains(t, failure, `aggregate.From(1, func(old ...) ... {...}) at event "paid"`)
		failure = check(t, update, aggregate.Define("till", aggregate.Records[*named]("named")))
		require.Contains(t, failure, "event paid is gone, and it is in the log")
		require.Contains(t, failure, `aggregate.Retires("paid", ...)`)
		failure = check(t, update, define[paid](aggregate.Encoded(upper{})))
		require.Contains(t, failure, "- json\n      + upper")
		now, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, before, now, "the file is as it was")
	}
	// a form of its own is what it takes
	formed := define[paidLess](aggregate.From(1, upgraded, downgraded))
	failure := check(t, "", formed)
	require.Contains(t, failure, "old bytes can be read")
	require.Contains(t, failure, "event paid/2 is new")
	require.Empty(t, check(t, "1", formed))
	now, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(now), "event paid: json, former\n\tCents int64")
	require.Contains(t, string(now), "event paid/2: json, stored as paid/2+paid\n\tDollars int64")
	// the way back is given up
	require.Contains(t, check(t, "", define[paidLess](aggregate.From(1, upgraded))), `was "json, stored as paid/2+paid", is "json"`)
}

type upper struct{}

func (upper) Name() string                { return "upper" }
func (upper) Marshal(any) ([]byte, error) { return nil, nil }
func (upper) Unmarshal([]byte, any) error { return nil }

func TestAnAddedFieldIsForTheReviewer(t *testing.T) {
	within(t)
	require.Empty(t, check(t, "1", define[paid]()))
	require.Contains(t, check(t, "", define[paidMore]()), "event paid has more fields")
	require.Empty(t, check(t, "1", define[paidMore]()))
	require.Contains(t, check(t, "1", define[paid]()), "- Tip int64", "what was stored once stays")
}

func TestANameThatIsNotRecordedAnyMoreStaysInTheSchema(t *testing.T) {
	within(t)
	other := aggregate.Records[paidLess]("settled")
	rest := aggregate.Records[*named]("named")
	require.Empty(t, check(t, "1", aggregate.Define("till", aggregate.Records[paid]("paid"), rest)))
	retired := aggregate.Define("till", other, rest, aggregate.Retires("paid", today))
	require.Contains(t, check(t, "", retired), "event paid is retired")
	require.Empty(t, check(t, "1", retired))
	require.Contains(t, check(t, "1", aggregate.Define("till", aggregate.Records[paid]("paid"), other, rest)), "retired paid is recorded again")
	dropped := aggregate.Define("till", other, rest, aggregate.Drops[till]("paid"))
	require.Contains(t, check(t, "", dropped), "retired paid is dropped")
	require.Empty(t, check(t, "1", dropped))
	require.Contains(t, check(t, "1", retired), "dropped paid is an event again")
	require.Contains(t, check(t, "1", aggregate.Define("till", other, rest)), "dropped paid is gone")
}

func TestAChangedStateTakesAnotherSchema(t *testing.T) {
	state := func(text string, schema int) string {
		file := within(t)
		now := aggregate.Define("till", aggregate.Records[paid]("paid"), aggregate.Snapshots[till](aggregate.SnapshotPolicy{Schema: schema}))
		require.Empty(t, check(t, "1", now))
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		old := strings.Replace(string(b), "state: json, schema 1\n\tCents int64", text, 1)
		require.NoError(t, os.WriteFile(file, []byte(old), 0o600))
		failure := check(t, "", now)
		if check(t, "1", now) == "" {
			require.NotEmpty(t, failure, "only an update accepts it")
			return "accepted"
		}
		return failure
	}
	require.Contains(t, state("state: json, schema 1\n\tDollars int64", 1), `Count up the Schema in aggregate.Snapshots of "till"`)
	require.Contains(t, state("state: json, schema 1", 1), `+ Cents int64`, "an added field is not in old snapshots")
	require.Contains(t, state("state: protobuf, schema 1\n\tCents int64", 1), `- protobuf`)
	require.Equal(t, "accepted", state("state: json, schema 0\n\tDollars int64", 1))
}

func TestWhatIsOnlySentMayChange(t *testing.T) {
	within(t)
	records := aggregate.Records[paid]("paid")
	require.Empty(t, check(t, "1", aggregate.Define("till", records, aggregate.Accepts[pay]("pay"))))
	failure := check(t, "", aggregate.Define("till", records))
	require.Contains(t, failure, "command pay is gone")
	require.Contains(t, failure, "answer of pay is gone")
	require.Empty(t, check(t, "1", aggregate.Define("till", records)))
}

// An event of yesterday is several today, or none.
func TestRetiredAndDroppedEventsAreGiven(t *testing.T) {
	typ := aggregate.Define("till", aggregate.Accepts[pay]("pay"), aggregate.Records[paidLess]("settled"), aggregate.Records[paidMore]("tipped"),
		aggregate.Retires("sold", func(old paid) []tillEvent {
			return []tillEvent{paidLess{old.Cents / 100}, paidMore{Tip: old.Cents % 100}}
		}),
		aggregate.Drops[till]("opened"))
	story := aggregatetest.For(t, typ).
		GivenStored("sold", 1, []byte(`{"Cents":705}`)).
		GivenStored("opened", 3, []byte(`whatever`)).
		State(func(s till) { require.Equal(t, int64(705), s.Cents) })
	require.Equal(t, aggregate.Version(2), story.Version(), "versions are those of what is stored")

	random := 0
	fickle := aggregate.Define("till", aggregate.Records[paidLess]("settled"), aggregate.Retires("sold", func(paid) []tillEvent {
		random++
		return make([]tillEvent, 0, random)[:0:0]
	}), aggregate.Retires("odd", func(paid) []tillEvent {
		random++
		return []tillEvent{paidLess{1}, paidLess{2}}[:1+random%2]
	}))
	require.Empty(t, failureOf(t, func(t testing.TB) { aggregatetest.For(t, fickle).GivenStored("sold", 1, []byte(`{}`)) }))
	require.Contains(t, failureOf(t, func(t testing.TB) { aggregatetest.For(t, fickle).GivenStored("odd", 1, []byte(`{}`)) }),
		"is not always split into the same")
}

// What an older program is to read must be readable.
func TestAFormForOlderProgramsIsTried(t *testing.T) {
	way := func(down func(paidLess) paid) string {
		typ := aggregate.Define("till", aggregate.Records[paidLess]("paid", aggregate.From(1, func(old paid) paidLess {
			if old.Cents == 0 {
				panic("no cents")
			}
			return upgraded(old)
		}, down)))
		return failureOf(t, func(t testing.TB) { aggregatetest.For(t, typ).Given(paidLess{7}) })
	}
	require.Empty(t, way(downgraded))
	require.Contains(t, way(func(paidLess) paid { return paid{} }), `cannot be read in the form "paid"`)
}
