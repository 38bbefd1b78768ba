package eventsourcing

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

var people = aggregate.Define("person",
	aggregate.Accepts[deposit]("deposit"),
	aggregate.Records[deposited]("deposited"),
	aggregate.Sealed[account](func(id string) string {
		subject, _, _ := strings.Cut(id, ":")
		return subject
	}),
)

func person(id string) Target {
	return Target{Definition: people.Definition(), Stream: persistence.Stream{Type: "person", ID: id}}
}

// seal appends sealed events to a person's stream, as a grain would.
func (b *book) seal(v *Vault, id string, expected persistence.Version, events ...any) *persistence.Commit {
	b.t.Helper()
	t := person(id)
	subject := t.Definition.Subject(id)
	keys, err := v.Find(b.t.Context(), []string{subject}, true)
	require.NoError(b.t, err)
	c := &persistence.Commit{
		Stream: t.Stream, Partition: persistence.PartitionOf(t.Stream, b.store.Meta().Partitions), Expected: expected, At: time.Now(),
		Command: persistence.CommandID(aggregate.NewCommandID()),
	}
	for _, e := range events {
		stored, err := EncodeEvent(t.Definition.MessageOf(e), e)
		require.NoError(b.t, err)
		c.Events = append(c.Events, stored)
	}
	require.NoError(b.t, keys[subject].SealEvents(t.Stream, expected, c.Events))
	fence, ok := b.heads[c.Partition]
	if !ok {
		tenure, err := b.store.Claim(b.t.Context(), c.Partition, 0, owner)
		require.NoError(b.t, err)
		fence = persistence.Fence{Partition: c.Partition, Epoch: tenure.Epoch}
	}
	c.Epoch = fence.Epoch
	b.store.Append(b.t.Context(), &persistence.Batch{Owner: owner, Fences: []persistence.Fence{fence}, Commits: []*persistence.Commit{c}})
	require.NoError(b.t, c.Err)
	fence.Head += persistence.Offset(len(events))
	b.heads[c.Partition] = fence
	return c
}

func (b *book) unlocked(v *Vault, id string) Loaded {
	j := NewJournal(b.store, slog.New(slog.DiscardHandler))
	j.Unlock(v)
	return j.Load(b.t.Context(), []Target{person(id)})[0]
}

func TestSealedAggregateIsLoadedByWhoHasTheKey(t *testing.T) {
	b := newBook(t)
	v := NewVault(b.store, VaultConfig{})
	c := b.seal(v, "alice", 0, deposited{Cents: 5, Note: "a secret note"}, deposited{Cents: 2})
	events, err := b.store.Read(t.Context(), c.Stream, 0, 10)
	require.NoError(t, err)
	require.NotContains(t, string(events[0].Payload), "secret")
	l := b.unlocked(v, "alice")
	require.NoError(t, l.Err)
	require.EqualValues(t, 7, l.Instance.State().(*account).Cents)
	require.NotNil(t, l.Key)

	snapshot, err := EncodeSnapshot(people.Definition(), c.Stream, l.Version, l.Last, l.Instance, &l.Window, time.Now())
	require.NoError(t, err)
	require.NoError(t, l.Key.SealSnapshot(&snapshot))
	require.NoError(t, b.store.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshot}))
	again := b.unlocked(NewVault(b.store, VaultConfig{}), "alice")
	require.NoError(t, again.Err)
	require.EqualValues(t, 2, again.Snapshot)
	require.EqualValues(t, 7, again.Instance.State().(*account).Cents)

	l = NewJournal(b.store, nil).Load(t.Context(), []Target{person("alice")})[0]
	require.ErrorIs(t, l.Err, errSealed, "without a vault")
}

func TestSealedEventIsTiedToItsPlace(t *testing.T) {
	store, err := memory.Open(memory.Config{})
	require.NoError(t, err)
	keys, err := NewVault(store, VaultConfig{}).Find(t.Context(), []string{"a", "b"}, true)
	require.NoError(t, err)
	s := persistence.Stream{Type: "person", ID: "a"}
	events := []persistence.NewEvent{{Type: "t", Payload: []byte("text")}}
	require.NoError(t, keys["a"].SealEvents(s, 6, events))
	sealed := persistence.Event{Stream: s, Version: 7, Type: "t", Payload: events[0].Payload}
	text, err := keys["a"].openEvent(&sealed)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
	for name, change := range map[string]func(e *persistence.Event){
		"stream":  func(e *persistence.Event) { e.Stream.ID = "b" },
		"version": func(e *persistence.Event) { e.Version++ },
		"type":    func(e *persistence.Event) { e.Type = "u" },
		"bytes":   func(e *persistence.Event) { e.Payload = bytes.Clone(e.Payload); e.Payload[len(e.Payload)-1] ^= 1 },
		"nonce":   func(e *persistence.Event) { e.Payload = bytes.Clone(e.Payload); e.Payload[5] ^= 1 },
	} {
		other := sealed
		change(&other)
		_, err := keys["a"].openEvent(&other)
		require.ErrorIs(t, err, errTampered, name)
	}
	_, err = keys["b"].openEvent(&sealed)
	require.ErrorIs(t, err, errTampered, "another's key")
	require.NoError(t, keys["a"].SealEvents(s, 6, events), "twice")
	require.NotEqual(t, sealed.Payload, events[0].Payload, "a nonce is used once")
}

// TestSealedFormNeverChanges opens what an earlier build has sealed.
func TestSealedFormNeverChanges(t *testing.T) {
	golden, err := os.ReadFile("testdata/sealed-1.golden")
	require.NoError(t, err)
	sealed, err := hex.DecodeString(strings.TrimSpace(string(golden)))
	require.NoError(t, err)
	key := fixedKey(t)
	e := persistence.Event{Stream: persistence.Stream{Type: "person", ID: "alice"}, Version: 7, Type: "deposited/2", Payload: sealed}
	text, err := key.openEvent(&e)
	require.NoError(t, err)
	require.JSONEq(t, `{"Cents":500}`, string(text))
}

// fixedKey is 0, 1, 2 and so on.
func fixedKey(t testing.TB) *Key {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i)
	}
	block, err := aes.NewCipher(secret)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	return &Key{subject: "alice", vault: NewVault(nil, VaultConfig{}), aead: aead}
}

func FuzzOpen(f *testing.F) {
	golden, err := os.ReadFile("testdata/sealed-1.golden")
	require.NoError(f, err)
	sealed, err := hex.DecodeString(strings.TrimSpace(string(golden)))
	require.NoError(f, err)
	f.Add(sealed)
	f.Add(sealed[:20])
	f.Add([]byte{0, 1})
	f.Add([]byte(`{"Cents":500}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		key := fixedKey(t)
		e := persistence.Event{Stream: persistence.Stream{Type: "person", ID: "alice"}, Version: 7, Type: "deposited/2", Payload: payload}
		text, err := key.openEvent(&e)
		switch {
		case !isSealed(payload):
			require.NoError(t, err)
			require.Equal(t, payload, text)
		case bytes.Equal(payload, sealed):
			require.NoError(t, err)
		default:
			require.ErrorIs(t, err, errTampered)
		}
	})
}

// TestForgottenKeyIsUsedByNobody forgets through one vault what another has in
// memory.
func TestForgottenKeyIsUsedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		here, there := NewVault(b.store, VaultConfig{}), NewVault(b.store, VaultConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go there.Run(ctx)
		var told []*Key
		there.OnForget(func(k *Key) { told = append(told, k) })
		b.seal(here, "alice:1", 0, deposited{Cents: 5})
		b.seal(here, "bob", 0, deposited{Cents: 5})
		key := b.unlocked(there, "alice:1").Key
		bobs := b.unlocked(there, "bob").Key
		require.NoError(t, key.Usable())
		<-time.After(time.Minute) // of the bubble
		require.NoError(t, key.Usable(), "it is confirmed again and again")
		require.NoError(t, here.Forget(t.Context(), "alice"))
		require.ErrorIs(t, key.Usable(), ErrForgotten)
		synctest.Wait()
		require.Equal(t, []*Key{key}, told)
		require.NoError(t, bobs.Usable())
		require.ErrorIs(t, b.unlocked(there, "alice:1").Err, ErrForgotten)
		require.ErrorIs(t, b.unlocked(there, "alice:2").Err, ErrForgotten, "no key is made for her again")
		require.NoError(t, b.unlocked(there, "bob").Err)
		require.NoError(t, here.Forget(t.Context(), "alice"), "again")
		_, err := key.seal(nil, nil)
		require.ErrorIs(t, err, ErrForgotten)
		require.Error(t, here.Forget(t.Context(), ""))
	})
}

// TestKeyThatCannotBeConfirmedGoesStale is why Forget need not reach every node.
func TestKeyThatCannotBeConfirmedGoesStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := memory.Open(memory.Config{})
		require.NoError(t, err)
		keys := &cutOff{Keys: store}
		v := NewVault(keys, VaultConfig{Fresh: 3 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go v.Run(ctx)
		found, err := v.Find(t.Context(), []string{"a"}, true)
		require.NoError(t, err)
		keys.down.Store(true)
		<-time.After(3*time.Second + time.Millisecond)
		require.ErrorIs(t, found["a"].Usable(), errStale)
		_, err = v.Find(t.Context(), []string{"a"}, true)
		require.ErrorIs(t, err, errDown)
		keys.down.Store(false)
		again, err := v.Find(t.Context(), []string{"a"}, true)
		require.NoError(t, err)
		require.NoError(t, again["a"].Usable())
	})
}

type cutOff struct {
	persistence.Keys
	down atomic.Bool
}

func (c *cutOff) FindKeys(ctx context.Context, subjects []string) ([]persistence.Key, error) {
	if c.down.Load() {
		return nil, errDown
	}
	return c.Keys.FindKeys(ctx, subjects)
}

func TestVaultIsBounded(t *testing.T) {
	store, err := memory.Open(memory.Config{})
	require.NoError(t, err)
	v := NewVault(store, VaultConfig{Size: 10})
	for i := range 100 {
		_, err := v.Find(t.Context(), []string{strings.Repeat("x", i+1)}, true)
		require.NoError(t, err)
	}
	require.LessOrEqual(t, len(v.young)+len(v.old), 10)
}

func TestForgettingIsProven(t *testing.T) {
	b := newBook(t)
	v := NewVault(b.store, VaultConfig{Fresh: time.Millisecond})
	c := b.seal(v, "alice:1", 0, deposited{Cents: 5}, deposited{Cents: 6})
	b.seal(v, "alice:2", 0, deposited{Cents: 5})
	other := b.seal(v, "bob", 0, deposited{Cents: 5})
	l := b.unlocked(v, "alice:1")
	snapshot, err := EncodeSnapshot(people.Definition(), c.Stream, l.Version, l.Last, l.Instance, &l.Window, time.Now())
	require.NoError(t, err)
	require.NoError(t, l.Key.SealSnapshot(&snapshot))
	require.NoError(t, b.store.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshot}))
	letter := func(c *persistence.Commit) persistence.DeadLetter {
		return persistence.DeadLetter{
			DeadLetterKey: persistence.DeadLetterKey{Partition: c.Partition, Offset: c.Offset}, Stream: c.Stream, Type: "deposited", Cause: "quotes it",
		}
	}
	park := persistence.Step{Projection: "p", Park: []persistence.DeadLetter{letter(c), letter(other)}}
	require.NoError(t, b.store.Advance(t.Context(), park, nil))
	verify := func() Proof {
		p, err := VerifyForgotten(t.Context(), b.store, b.store, []aggregate.Any{people}, "alice")
		require.NoError(t, err)
		return p
	}
	before := verify()
	require.Equal(t, Proof{
		Subject: "alice", KeyThere: true, Streams: 2, Events: 3, ReadableEvents: 3,
		Snapshots: 1, ReadableSnapshots: 1, DeadLetters: 1, DeadLettersWithACause: 1,
	}, before)
	require.NoError(t, v.Forget(t.Context(), "alice"))
	require.False(t, verify().Forgotten, "the dead letter quotes it")
	definitions := func(string) *aggregate.Definition { return people.Definition() }
	require.NoError(t, PurgeDeadLetters(t.Context(), b.store, definitions, "alice"))
	after := verify()
	require.Equal(t, Proof{Subject: "alice", Forgotten: true, Marker: true, Streams: 2, Events: 3, Snapshots: 1, DeadLetters: 1}, after)
	letters, err := b.store.DeadLetters(t.Context(), "p", persistence.DeadLetterKey{}, 10)
	require.NoError(t, err)
	require.Len(t, letters, 2)

	reader := NewReader(ReaderConfig{Store: b.store, Aggregates: []aggregate.Any{people}, Unknown: Stop, Vault: v})
	n := 0
	for recorded, err := range reader.All(t.Context(), nil, Filter{}) {
		require.NoError(t, err)
		require.Equal(t, "bob", recorded.ID)
		n++
	}
	require.Equal(t, 1, n)
}

func TestReaderMergesByTime(t *testing.T) {
	b := newBook(t)
	for i := range 300 {
		b.append("account-"+string(rune('a'+i%26)), persistence.Version(i/26), stored("deposited/3", `{"Cents":1}`))
	}
	b.append("new", 0, stored("unheard-of", `{}`))
	reader := NewReader(ReaderConfig{Store: b.store, Aggregates: []aggregate.Any{accounts}})
	var last time.Time
	n := 0
	for recorded, err := range reader.All(t.Context(), nil, Filter{Events: []string{"deposited"}}) {
		require.NoError(t, err)
		require.False(t, recorded.At.Before(last))
		require.Equal(t, deposited{Cents: 1}, recorded.Value)
		last = recorded.At
		n++
	}
	require.Equal(t, 300, n)
	n = 0
	for _, err := range reader.All(t.Context(), nil, Filter{}) {
		require.NoError(t, err)
		if n++; n == 10 {
			break
		}
	}
	require.Equal(t, 10, n)
	n = 0
	for recorded, err := range reader.Stream(t.Context(), "account", "account-a", 2) {
		require.NoError(t, err)
		require.EqualValues(t, n+3, recorded.Version)
		n++
	}
	require.Equal(t, 10, n)
	var all []error
	for _, p := range []Unknown{PassOver, Park, Stop} {
		reader := NewReader(ReaderConfig{Store: b.store, Aggregates: []aggregate.Any{accounts}, Unknown: p})
		for recorded, err := range reader.Stream(t.Context(), "account", "new", 0) {
			all = append(all, errors.Join(recorded.Err, err))
		}
	}
	require.Len(t, all, 2)
	require.ErrorContains(t, all[0], "unheard-of")
	require.ErrorAs(t, all[1], new(*UnreadableError))
	p := persistence.PartitionOf(streamOf("account-b"), b.store.Meta().Partitions)
	offset := aggregate.Offset(1)
	for recorded, err := range reader.Partition(t.Context(), p, 1, Filter{Aggregates: []string{"account"}, Events: []string{"deposited"}}) {
		require.NoError(t, err)
		require.Greater(t, recorded.Offset, offset)
		offset = recorded.Offset
	}
	require.Greater(t, offset, aggregate.Offset(1))
	for _, err := range reader.Partition(t.Context(), 99, 0, Filter{}) {
		require.Error(t, err)
	}
}

func BenchmarkSeal(b *testing.B) {
	key := fixedKey(b)
	s := persistence.Stream{Type: "person", ID: "alice"}
	payload := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		events := [1]persistence.NewEvent{{Type: "deposited", Payload: payload}}
		if err := key.SealEvents(s, 6, events[:]); err != nil {
			b.Fatal(err)
		}
	}
}
