package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// maxAttempts bounds how often a chunk is planned anew. Each attempt but
	// those after a deadlock adds to what is known, so three are usual at most.
	maxAttempts = 8
	// checkedSpell is for how many transactions a lane compares versions first
	// after one failed for not having done so. Comparing costs less than
	// failing as soon as every fourth transaction would fail.
	checkedSpell = 64
)

// SQLSTATEs; those starting with ES are raised by the functions in migrations.
const (
	codeFenced          = "ES001"
	codeConflict        = "ES002"
	codeTaken           = "ES003"
	codeUniqueViolation = "23505"
	codeSerialization   = "40001"
	codeDeadlock        = "40P01"
)

// write brings the chunk's commits into the log and sets their fate. An error
// means that the chunk's fate was decided by the connection, not by the store,
// and that the append should not go on.
func (l *lane) write(ctx context.Context, chunk []*persistence.Commit) error {
	l.open(chunk)
	a := &l.attempt
	if err := l.ready(ctx); err != nil {
		err = unreached(err)
		return a.abandon(chunk, err, err)
	}
	if a.slots[0].part.claims {
		if err := l.lookUp(ctx, contested(chunk)); err != nil {
			l.disconnect()
			err = unreached(err)
			return a.abandon(chunk, err, err)
		}
	}
	for range maxAttempts {
		if !l.plan(chunk) {
			return nil
		}
		err := l.send(ctx, a.owner)
		if err == nil {
			l.settle(chunk)
			return nil
		}
		switch l.learn(err) {
		case planAgain:
		case oneByOne:
			return l.isolate(ctx, chunk, err)
		case nothingDone:
			return a.abandon(chunk, err, err)
		case reconnect:
			l.disconnect()
			err = unreached(err)
			return a.abandon(chunk, err, err)
		case unknown:
			l.disconnect()
			return a.abandon(chunk, fmt.Errorf("%w: %w", persistence.ErrUnknownOutcome, err), unreached(err))
		}
	}
	return l.isolate(ctx, chunk, errors.New("the transaction was refused too often"))
}

// unreached marks what no server has said to a session.
func unreached(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR" {
		return err
	}
	return fmt.Errorf("%w: %w", persistence.ErrUnreachable, err)
}

// settle records what a committed transaction made true.
func (l *lane) settle(chunk []*persistence.Commit) {
	a := &l.attempt
	for i := range a.list {
		if p := &a.list[i]; p.present {
			if p.next > p.head {
				l.witness = persistence.Cursor{Partition: p.fence.Partition, After: p.next}
			}
			p.head = p.next
			l.heads[p.fence.Partition] = sighting{p.fence.Epoch, p.head}
		}
	}
	for i := range a.links {
		if ch := &a.links[i]; ch.current > ch.base {
			name := ch.stream
			if !ch.cached {
				// The caller's strings may be cut out of something much larger.
				name = persistence.Stream{Type: strings.Clone(name.Type), ID: strings.Clone(name.ID)}
			}
			l.store.known.Add(name, knownVersion{version: ch.current, epoch: ch.epoch})
		}
	}
	if l.checked > 0 {
		l.checked--
	}
}

// abandon gives up on the chunk: what was sent gets fate, what was not gets
// cause, and what the store itself said stays. It returns cause.
func (a *attempt) abandon(chunk []*persistence.Commit, fate, cause error) error {
	for i, c := range chunk {
		c.Offset = 0
		switch s := &a.slots[i]; {
		case s.part.fenced != nil:
			c.Err = s.part.fenced
		case s.verdict == accepted:
			c.Err = fmt.Errorf("append %s: %w", c.Stream, fate)
		case a.links[s.chain].proven && a.links[s.chain].current == a.links[s.chain].base && isConflict(c.Err):
		default:
			// Rejected on assumptions that were never proven.
			c.Err = fmt.Errorf("append %s: not attempted: %w", c.Stream, cause)
		}
	}
	return cause
}

func isConflict(err error) bool {
	var conflict *persistence.ConflictError
	return errors.As(err, &conflict)
}

// isolate writes each commit in a transaction of its own, so that the one that
// the server refuses does not hurt the others.
func (l *lane) isolate(ctx context.Context, chunk []*persistence.Commit, cause error) error {
	if len(chunk) == 1 {
		_ = l.attempt.abandon(chunk, cause, cause) // the commit's fate is its own
		return nil
	}
	for i := range chunk {
		if err := l.write(ctx, chunk[i:i+1]); err != nil {
			failAll(chunk[i+1:], fmt.Errorf("append: not attempted: %w", err))
			return err
		}
	}
	return nil
}

// next is what to do after a failed attempt.
type next uint8

const (
	planAgain   next = iota // with what was learnt
	oneByOne                // something in it is unacceptable
	nothingDone             // the server would not do it
	reconnect               // nor would it later on this connection
	unknown
)

// learn takes from an error what it says about partitions, streams and claims.
func (l *lane) learn(err error) next {
	if errors.Is(err, errBlamed) {
		return planAgain
	}
	if errors.Is(err, errUnsteady) {
		l.forget() // so that es_fence looks at everything
		return planAgain
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || l.conn.IsClosed() || pgErr.SeverityUnlocalized != "ERROR" {
		// Only an ERROR leaves a session that goes on, and so proves that the
		// transaction was rolled back.
		if pgconn.SafeToRetry(err) {
			return reconnect
		}
		return unknown
	}
	a := &l.attempt
	switch pgErr.Code {
	case codeFenced:
		l.forget()
		return a.learnFences(pgErr.Detail)
	case codeConflict:
		return a.learnVersions(pgErr.Detail)
	case codeTaken:
		a.proveGuards()
		return a.learnHolders(pgErr.Detail)
	case codeDeadlock, codeSerialization:
		return planAgain
	case codeUniqueViolation:
		switch pgErr.ConstraintName {
		case "es_event_version":
			l.checked = checkedSpell
			a.doubt()
			return planAgain
		case "es_event_pk": // the log is longer than the owner knows
			l.forget()
			return planAgain
		}
		return oneByOne
	case "25006", "26000": // read-only: no primary any more; no such prepared statement
		return reconnect
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "22", "23", "54": // bad data, constraints, limits
		return oneByOne
	}
	return nothingDone
}

func (a *attempt) learnFences(detail string) next {
	var rows []struct {
		Part  persistence.Partition
		Epoch persistence.Epoch
		Owner persistence.NodeID
		Head  persistence.Offset
	}
	if err := json.Unmarshal([]byte(detail), &rows); err != nil {
		return nothingDone
	}
	for _, r := range rows {
		p := &a.list[a.parts[r.Part]]
		fenced := &persistence.FencedError{Partition: r.Part, Epoch: p.fence.Epoch, Current: r.Epoch, Owner: r.Owner}
		if r.Epoch == p.fence.Epoch && r.Owner == a.owner && r.Owner != "" {
			fenced.Head, fenced.StoreHead = p.head, r.Head
		}
		p.fenced = fenced
	}
	return planAgain
}

// proveGuards notes that the versions compared were right.
func (a *attempt) proveGuards() {
	for _, i := range a.guards {
		a.links[i].proven = true
	}
}

// doubt has all versions compared in the attempts to come.
func (a *attempt) doubt() {
	a.strict = true
	for i := range a.links {
		a.links[i].proven = false
	}
}

func (a *attempt) learnVersions(detail string) next {
	var rows []struct {
		N       int
		Version persistence.Version
	}
	if err := json.Unmarshal([]byte(detail), &rows); err != nil {
		return nothingDone
	}
	a.proveGuards()
	for _, r := range rows {
		a.links[a.guards[r.N-1]].base = r.Version
	}
	return planAgain
}

func (a *attempt) learnHolders(detail string) next {
	var rows []struct {
		N      int
		Holder string
	}
	if err := json.Unmarshal([]byte(detail), &rows); err != nil {
		return nothingDone
	}
	for _, r := range rows {
		a.knowHolder(a.claimed[r.N-1], r.Holder)
	}
	return planAgain
}

func (a *attempt) knowHolder(k persistence.Claim, stream string) {
	if a.holders == nil {
		a.holders = make(map[persistence.Claim]string)
	}
	a.holders[k] = stream
}

// lookUp asks who holds the values.
func (l *lane) lookUp(ctx context.Context, claims []persistence.Claim) error {
	if len(claims) == 0 {
		return nil
	}
	namespaces, keys := make([]string, len(claims)), make([]string, len(claims))
	for i, k := range claims {
		namespaces[i], keys[i] = k.Namespace, k.Key
		l.attempt.knowHolder(k, "")
	}
	rows, err := l.conn.Query(ctx, `select c.ns, c.key, c.stream from unnest($1::text[], $2::text[]) i(ns, key)
		join es_claim c on c.ns = i.ns and c.key = i.key`, namespaces, keys)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k persistence.Claim
		var stream string
		if err := rows.Scan(&k.Namespace, &k.Key, &stream); err != nil {
			return err
		}
		l.attempt.knowHolder(k, stream)
	}
	return rows.Err()
}
