package inprocess_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/examples/transfer"
	"github.com/ingrain-go/ingrain/examples/transfer/bank"
	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// onProcessStores runs a test on every store.
func onProcessStores(t *testing.T, test func(t *testing.T, store persistence.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, inMemory(t)) })
	t.Run("sqlite", func(t *testing.T) {
		store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: partitions})
		require.NoError(t, err)
		test(t, store)
	})
	t.Run("postgres", func(t *testing.T) {
		store, err := postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: partitions})
		require.NoError(t, err)
		test(t, store)
	})
}

var banking = []aggregate.Any{bank.Accounts, transfer.Transfers}

func asBank(_ int, c *cluster.Config) { c.Aggregates = banking }

func (h *house) deposit(id string, cents int64) {
	h.t.Helper()
	_, err := bank.Accounts.Ref(h.nodes[0], id).Send(within(h.t, patience), bank.Deposit{Cents: cents, Reason: "first"})
	require.NoError(h.t, err)
}

func (h *house) order(i int, id, from, to string, cents int64, until time.Time) {
	h.t.Helper()
	_, err := bank.Accounts.Ref(h.nodes[i%len(h.nodes)], from).
		Send(within(h.t, patience), bank.Order{Transfer: id, To: to, Cents: cents, Until: until})
	require.NoError(h.t, err)
}

func (h *house) balance(id string) int64 {
	h.t.Helper()
	cents, err := aggregate.Ask(within(h.t, patience), bank.Accounts.Ref(h.nodes[0], id), bank.Balance{})
	require.NoError(h.t, err)
	return cents
}

func (h *house) phase(id string) transfer.Phase {
	h.t.Helper()
	s, err := aggregate.Ask(within(h.t, patience), transfer.Transfers.Ref(h.nodes[0], id), transfer.Status{})
	require.NoError(h.t, err)
	return s.Phase
}

func (h *house) becomes(id string, want transfer.Phase) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return h.phase(id) == want }, patience, 5*time.Millisecond, "transfer %s is to become %s", id, want)
}

func ids(t *testing.T, list func(func(string, error) bool)) (all []string) {
	t.Helper()
	for id, err := range list {
		require.NoError(t, err)
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

func TestATransferEndsInEveryWayThereIs(t *testing.T) {
	onProcessStores(t, func(t *testing.T, store persistence.Store) {
		h := buildOn(t, store, 3, asBank)
		later := time.Now().Add(time.Hour)
		h.deposit("alice", 100)
		h.deposit("bob", 100)
		h.deposit("carol", 1)
		_, err := bank.Accounts.Ref(h.nodes[0], "carol").Send(within(t, patience), bank.Close{})
		require.NoError(t, err)

		h.order(0, "good", "alice", "bob", 30, later)
		h.order(1, "poor", "alice", "bob", 1000, later)
		h.order(2, "closed", "alice", "carol", 20, later)
		h.becomes("good", transfer.Completed)
		h.becomes("poor", transfer.Failed)
		h.becomes("closed", transfer.Refunded)
		require.Equal(t, []int64{70, 130, 1}, []int64{h.balance("alice"), h.balance("bob"), h.balance("carol")})

		ctx := within(t, patience)
		require.Empty(t, ids(t, h.nodes[1].OpenProcesses(ctx, transfer.Transfers)))
		require.Equal(t, []string{"closed", "good", "poor"}, ids(t, h.nodes[1].EndedProcesses(ctx, transfer.Transfers)))
		_, err = transfer.Transfers.Ref(h.nodes[1], "good").Send(ctx, transfer.Finish{})
		require.ErrorIs(t, err, aggregate.ErrEnded)
		require.Eventually(t, func() bool {
			left, err := eventsourcing.CheckEffects(ctx, h.store, time.Now(), banking...)
			return err == nil && len(left) == 0
		}, patience, 20*time.Millisecond, "claims and timers are those of the log")
	})
}

func TestMetadataTravelsFromEventToProcessToCommand(t *testing.T) {
	h := build(t, 2, asBank)
	h.deposit("alice", 10)
	ctx := aggregate.WithMetadata(within(t, patience), aggregate.Metadata{User: "ada", Correlation: "first", Tenant: "north"})
	_, err := bank.Accounts.Ref(h.nodes[0], "alice").Send(ctx, bank.Order{Transfer: "t", To: "bob", Cents: 10, Until: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	h.becomes("t", transfer.Completed)
	reader := eventsourcing.NewReader(eventsourcing.ReaderConfig{Store: h.store, Aggregates: banking})
	seen := map[string]string{} // causation by event
	for _, s := range [][2]string{{"bank-account", "alice"}, {"bank-transfer", "t"}, {"bank-account", "bob"}} {
		for e, err := range reader.Stream(ctx, s[0], s[1], 0) {
			require.NoError(t, err)
			m, err := e.Metadata()
			require.NoError(t, err)
			if e.Event == "deposited" && s[1] == "alice" {
				continue
			}
			require.Equal(t, "ada", m.User, e.Event)
			require.Equal(t, "north", m.Tenant, e.Event)
			require.Equal(t, "first", m.Correlation, e.Event)
			require.Equal(t, seen[e.Event+"-cause"], "", e.Event)
			seen[e.Event] = m.Causation
			seen["id of "+e.Event] = e.Command.String()
		}
	}
	require.Equal(t, seen["id of ordered"], seen["begun"])
	require.Equal(t, seen["id of begun"], seen["withdrawn"])
	require.Equal(t, seen["id of withdrawn"], seen["debited"])
	require.Equal(t, seen["id of debited"], seen["deposited"])
}

// caused is a request as a courier makes it.
func caused(t *testing.T, id string, command any, made time.Time) *aggregate.Request {
	d := bank.Accounts.Definition()
	m := d.MessageOf(command)
	require.NotNil(t, m)
	return &aggregate.Request{
		Definition: d, ID: id, Message: m, Value: command, Expect: -1, Caused: true, Command: aggregate.CommandIDAt(made),
	}
}

// refusedTwice lets a caused command be refused, the reason for it go away, and the
// command come again, by another node.
func refusedTwice(t *testing.T, h *house) (first, second error) {
	ctx := within(t, patience)
	r := caused(t, "alice", bank.Withdraw{Cents: 5}, time.Now())
	again := *r
	_, first = h.nodes[0].Deliver(ctx, r)
	h.deposit("alice", 10)
	response, second := h.nodes[1].Deliver(ctx, &again)
	if second == nil && response.Receipt.Duplicate && h.balance("alice") == 10 {
		second = bank.ErrInsufficientFunds // the first receipt, of the outcome that is kept
	}
	return first, second
}

func TestARefusalThatWasToldStands(t *testing.T) {
	onProcessStores(t, func(t *testing.T, store persistence.Store) {
		first, second := refusedTwice(t, buildOn(t, store, 2, asBank))
		require.ErrorIs(t, first, bank.ErrInsufficientFunds)
		require.ErrorIs(t, second, bank.ErrInsufficientFunds)
	})
	t.Run("not without the rule", func(t *testing.T) {
		h := build(t, 2, func(_ int, c *cluster.Config) {
			c.Aggregates = banking
			c.Simulated = &simulated.Seams{Without: simulated.Rules{Outcomes: true}}
		})
		first, second := refusedTwice(t, h)
		require.ErrorIs(t, first, bank.ErrInsufficientFunds)
		require.NoError(t, second, "what the process took for refused has happened")
	})
}

func TestACausedCommandMayBeDaysOld(t *testing.T) {
	onProcessStores(t, func(t *testing.T, store persistence.Store) {
		h := buildOn(t, store, 2, asBank)
		for i, n := range h.nodes { // one of them is asked over the wire
			old := time.Now().Add(-72 * time.Hour)
			id := fmt.Sprint("old", i)
			h.deposit(id, 1)
			r := caused(t, id, bank.Deposit{Cents: 5}, old)
			plain := *r
			plain.Caused, plain.Command = false, aggregate.CommandIDAt(old)
			_, err := n.Deliver(within(t, patience), &plain)
			require.ErrorContains(t, err, aggregate.ReasonCommandTooOld)
			again := *r
			_, err = n.Deliver(within(t, patience), r)
			require.NoError(t, err)
			for k := range 300 { // it leaves the window
				h.deposit(id, int64(k))
			}
			response, err := h.nodes[1-i].Deliver(within(t, patience), &again)
			require.NoError(t, err)
			require.True(t, response.Receipt.Duplicate)
			require.Equal(t, aggregate.Version(2), response.Receipt.Version)
		}
	})
}

func TestOpenProcessesAreListedUntilTheyEnd(t *testing.T) {
	h := build(t, 3, asBank)
	ctx := within(t, patience)
	for i := range 20 { // nobody answers: their accounts have no money, and the calls to them are lost
		h.deposit(fmt.Sprint("a", i), 5)
	}
	stuck := fmt.Sprint("a", 3)
	begin := transfer.Begin{ID: "x", From: stuck, To: "nobody", Cents: 5, Until: time.Now().Add(time.Hour)}
	_, err := transfer.Transfers.Ref(h.nodes[0], "x").Send(ctx, begin)
	require.NoError(t, err)
	h.becomes("x", transfer.Completed)
	require.Empty(t, ids(t, h.nodes[2].OpenProcesses(ctx, transfer.Transfers)))
	for _, err := range h.nodes[0].OpenProcesses(ctx, bank.Accounts) {
		require.ErrorContains(t, err, "has no end")
	}
}
