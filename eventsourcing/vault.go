package eventsourcing

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// ErrForgotten says that what is asked for was sealed for a subject that has been
// forgotten: nobody can read it any more.
var ErrForgotten = errors.New("its subject was forgotten")

var (
	errSealed   = errors.New("it is sealed, and its key is not at hand")
	errTampered = errors.New("it is sealed under another key, of another place, or damaged")
	errStale    = errors.New("the subject's key was not confirmed in time")
)

// VaultConfig says how a vault keeps keys.
type VaultConfig struct {
	// Fresh is for how long a key may be used after the store was last known to
	// have it, and so how long Forget takes to be true everywhere. Run asks for
	// all keys in use three times as often. Default 6 s.
	Fresh time.Duration
	// Size bounds the keys in memory, at about 1 KiB each. An aggregate whose key
	// has been pushed out loads again. Default 65,536.
	Size int
}

func (c VaultConfig) withDefaults() VaultConfig {
	orDefault(&c.Fresh, 6*time.Second)
	orDefault(&c.Size, 1<<16)
	return c
}

// Vault seals and opens for subjects, with AES-256-GCM and a key for each, that
// the key store keeps. It remembers keys; [Vault.Run] keeps asking whether they
// are still there. It is safe for concurrent use.
//
// The sealed form, of which there are no others: two bytes 0, 1, a random nonce of
// 12 bytes, and what AES-256-GCM makes of the payload, with 16 bytes at its end
// that also prove where it belongs: stream, version and type. JSON and protobuf
// never begin with a byte 0. A key is good for 2^32 events and snapshots.
type Vault struct {
	keys   persistence.Keys
	config VaultConfig
	start  time.Time

	mu         sync.Mutex
	young, old map[string]*Key // two generations: when the young is full the old is let go
	onForget   map[*func(*Key)]struct{}
}

// NewVault makes a vault over a key store, which the event store itself can be.
// Where keys must not be in the backups of the events, it is another.
func NewVault(keys persistence.Keys, config VaultConfig) *Vault {
	return &Vault{keys: keys, config: config.withDefaults(), start: time.Now(), young: make(map[string]*Key)}
}

// Key is a subject's key in memory. It is safe for concurrent use.
type Key struct {
	subject   string
	vault     *Vault
	aead      cipher.AEAD
	confirmed atomic.Int64 // when the store was asked, on the vault's clock
	forgotten atomic.Bool
}

const (
	sealFormat  = 1
	sealHeader  = 2
	nonceSize   = 12
	sealOverall = sealHeader + nonceSize + 16
)

// Usable reports why the key must not be used: [ErrForgotten], or that the store
// has not been heard of it for too long.
func (k *Key) Usable() error {
	if k.forgotten.Load() {
		return ErrForgotten
	}
	if k.vault.now()-time.Duration(k.confirmed.Load()) > k.vault.config.Fresh {
		return errStale
	}
	return nil
}

// now counts through the vault's life.
func (v *Vault) now() time.Duration { return time.Since(v.start) }

// Find returns the keys of subjects that are not empty, by subject: from memory,
// or from the store in one round trip. Those that have none yet get one if
// create says so. A forgotten subject's key is not usable.
func (v *Vault) Find(ctx context.Context, subjects []string, create bool) (map[string]*Key, error) {
	found := make(map[string]*Key, len(subjects))
	var missing []string
	v.mu.Lock()
	for _, subject := range subjects {
		if subject == "" {
			continue
		}
		if key := v.known(subject); key != nil && !errors.Is(key.Usable(), errStale) {
			found[subject] = key
		} else {
			missing = append(missing, subject)
		}
	}
	v.mu.Unlock()
	if len(missing) == 0 {
		return found, nil
	}
	asked := v.now()
	stored, err := v.keys.FindKeys(ctx, missing)
	if err != nil {
		return nil, fmt.Errorf("find keys of %d subjects: %w", len(missing), err)
	}
	for _, key := range stored {
		if found[key.Subject], err = v.remember(key, asked); err != nil {
			return nil, err
		}
	}
	for _, subject := range missing {
		if found[subject] != nil || !create {
			continue
		}
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		winner, err := v.keys.PutKey(ctx, persistence.Key{Subject: subject, Secret: secret, At: time.Now()}, false)
		if err == nil {
			found[subject], err = v.remember(winner, asked)
		}
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
	}
	return found, nil
}

// known finds a key in memory. The vault is locked.
func (v *Vault) known(subject string) *Key {
	if key := v.young[subject]; key != nil {
		return key
	}
	key := v.old[subject]
	if key != nil {
		v.keep(key)
	}
	return key
}

func (v *Vault) keep(key *Key) {
	if len(v.young) >= max(1, v.config.Size/2) {
		v.old, v.young = v.young, make(map[string]*Key)
	}
	v.young[key.subject] = key
}

// remember takes what the store said when it was asked.
func (v *Vault) remember(stored persistence.Key, asked time.Duration) (*Key, error) {
	v.mu.Lock()
	key := v.known(stored.Subject)
	if key == nil || key.forgotten.Load() && !stored.Forgotten {
		key = &Key{subject: stored.Subject, vault: v}
		if !stored.Forgotten {
			block, err := aes.NewCipher(stored.Secret)
			if err == nil {
				key.aead, err = cipher.NewGCM(block)
			}
			if err != nil {
				v.mu.Unlock()
				return nil, fmt.Errorf("key of subject %q: %w", stored.Subject, err)
			}
		}
		v.keep(key)
	}
	gone := stored.Forgotten && !key.forgotten.Swap(true)
	if now := int64(asked); now > key.confirmed.Load() {
		key.confirmed.Store(now)
	}
	var tell []func(*Key)
	if gone {
		for f := range v.onForget {
			tell = append(tell, *f)
		}
	}
	v.mu.Unlock()
	for _, f := range tell {
		f(key)
	}
	return key, nil
}

// OnForget has f told of every key in memory that turns out to be forgotten, until
// stop is called. It must not block.
func (v *Vault) OnForget(f func(*Key)) (stop func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.onForget == nil {
		v.onForget = make(map[*func(*Key)]struct{})
	}
	v.onForget[&f] = struct{}{}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.onForget, &f)
	}
}

// Run confirms the keys in memory until ctx ends. Without it each is usable for
// Fresh, and then asked for again by who needs it.
func (v *Vault) Run(ctx context.Context) {
	tick := time.NewTicker(v.config.Fresh / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			v.confirm(ctx)
		}
	}
}

// confirm asks the store for every key in memory. What it cannot answer goes
// stale.
func (v *Vault) confirm(ctx context.Context) {
	v.mu.Lock()
	subjects := make([]string, 0, len(v.young)+len(v.old))
	for _, generation := range []map[string]*Key{v.young, v.old} {
		for subject, key := range generation {
			if !key.forgotten.Load() {
				subjects = append(subjects, subject)
			}
		}
	}
	v.mu.Unlock()
	const page = 1000
	for len(subjects) > 0 && ctx.Err() == nil {
		n := min(page, len(subjects))
		asked := v.now()
		stored, err := v.keys.FindKeys(ctx, subjects[:n])
		if err != nil {
			return
		}
		for i := range stored {
			if key := v.inMemory(stored[i].Subject); key == nil {
				continue
			}
			if _, err := v.remember(stored[i], asked); err != nil {
				return
			}
		}
		subjects = subjects[n:]
	}
}

func (v *Vault) inMemory(subject string) *Key {
	v.mu.Lock()
	defer v.mu.Unlock()
	if key := v.young[subject]; key != nil {
		return key
	}
	return v.old[subject]
}

// Forget destroys the subject's key in the store and returns when no node can use
// it any more, which takes [VaultConfig].Fresh: nodes that cannot reach the store
// cannot confirm the key. Forgetting again is harmless.
func (v *Vault) Forget(ctx context.Context, subject string) error {
	if subject == "" {
		return errors.New("forget: no subject")
	}
	if err := v.keys.DeleteKey(ctx, subject, time.Now()); err != nil {
		return fmt.Errorf("forget %q: %w", subject, err)
	}
	if _, err := v.remember(persistence.Key{Subject: subject, Forgotten: true}, v.now()); err != nil {
		return err
	}
	wait := time.NewTimer(v.config.Fresh)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("forget %q: the key is gone, and nodes may use it until %s from then: %w", subject, v.config.Fresh, ctx.Err())
	}
}

// seal gives a payload its sealed form.
func (k *Key) seal(place []byte, payload []byte) ([]byte, error) {
	if err := k.Usable(); err != nil {
		return nil, err
	}
	sealed := make([]byte, sealHeader+nonceSize, sealOverall+len(payload))
	sealed[1] = sealFormat
	if _, err := rand.Read(sealed[sealHeader:]); err != nil {
		return nil, err
	}
	return k.aead.Seal(sealed, sealed[sealHeader:], payload, place), nil
}

// isSealed reports whether a payload has the sealed form.
func isSealed(payload []byte) bool {
	return len(payload) >= sealOverall && payload[0] == 0 && payload[1] == sealFormat
}

// open undoes seal. What was never sealed is returned as it is.
func (k *Key) open(place []byte, payload []byte) ([]byte, error) {
	if !isSealed(payload) {
		return payload, nil
	}
	if k == nil {
		return nil, errSealed
	}
	if err := k.Usable(); err != nil {
		return nil, err
	}
	opened, err := k.aead.Open(nil, payload[sealHeader:sealHeader+nonceSize], payload[sealHeader+nonceSize:], place)
	if err != nil {
		return nil, errTampered
	}
	return opened, nil
}

// place is what a sealed payload is tied to: the stream, the version, and the
// stored type of an event or "" for a snapshot.
func place(buf []byte, stream persistence.Stream, version persistence.Version, typ string) []byte {
	buf = append(buf[:0], stream.Type...)
	buf = append(buf, '/')
	buf = append(buf, stream.ID...)
	buf = append(buf, 0)
	buf = binary.BigEndian.AppendUint64(buf, uint64(version)) //nolint:gosec // two's complement
	return append(buf, typ...)
}

// SealEvents seals the events of a commit that follows a version.
func (k *Key) SealEvents(stream persistence.Stream, after persistence.Version, events []persistence.NewEvent) error {
	var scratch [256]byte
	for i := range events {
		sealed, err := k.seal(place(scratch[:], stream, after+persistence.Version(i)+1, events[i].Type), events[i].Payload)
		if err != nil {
			return fmt.Errorf("seal event %q: %w", events[i].Type, err)
		}
		events[i].Payload = sealed
	}
	return nil
}

// SealSnapshot seals a snapshot.
func (k *Key) SealSnapshot(s *persistence.Snapshot) (err error) {
	s.Payload, err = k.seal(place(nil, s.Stream, s.Version, ""), s.Payload)
	return err
}

func (k *Key) openSnapshot(s *persistence.Snapshot) (err error) {
	s.Payload, err = k.open(place(nil, s.Stream, s.Version, ""), s.Payload)
	return err
}

func (k *Key) openEvent(e *persistence.Event) ([]byte, error) {
	var scratch [256]byte
	return k.open(place(scratch[:], e.Stream, e.Version, e.Type), e.Payload)
}

// opened is an event as it was before it was sealed. The event itself stays as it
// is: others read it too.
func (v *Vault) opened(ctx context.Context, d *aggregate.Definition, e *persistence.Event) (persistence.Event, error) {
	opened := *e
	if !d.Seals() || !isSealed(e.Payload) {
		return opened, nil
	}
	if v == nil {
		return opened, errSealed
	}
	one := []persistence.Event{opened}
	failed, err := v.OpenEvents(ctx, func(string) *aggregate.Definition { return d }, one)
	if err != nil {
		return opened, fmt.Errorf("%w: %w", errKeys, err)
	}
	return one[0], failed[0]
}

// OpenEvents opens the payloads of sealed events in place, for the definitions
// given by name. What was never sealed stays as it is. Failed says of the others,
// by their places, why they cannot be opened: [ErrForgotten], or damage, or a key
// that is not there.
func (v *Vault) OpenEvents(
	ctx context.Context, definitions func(name string) *aggregate.Definition, events []persistence.Event,
) (failed map[int]error, err error) {
	var subjects []string
	of := make(map[int]string)
	for i := range events {
		e := &events[i]
		if !isSealed(e.Payload) {
			continue
		}
		if d := definitions(e.Stream.Type); d != nil && d.Seals() {
			of[i] = d.Subject(e.Stream.ID)
			subjects = append(subjects, of[i])
		}
	}
	if len(subjects) == 0 {
		return nil, nil
	}
	keys, err := v.Find(ctx, subjects, false)
	if err != nil {
		return nil, err
	}
	for i, subject := range of {
		payload, err := keys[subject].openEvent(&events[i])
		if err == nil {
			events[i].Payload = payload
			continue
		}
		if failed == nil {
			failed = make(map[int]error)
		}
		failed[i] = err
	}
	return failed, nil
}
