package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	findKeysSQL = `select subject, secret, at from es_key where subject = any($1::bytea[]) order by subject`
	listKeysSQL = `select subject, secret, at from es_key where subject > $1 order by subject limit $2`
	putKeySQL   = `insert into es_key as k (subject, secret, at) values ($1, $2, $3)
		on conflict (subject) do update set secret = excluded.secret, at = excluded.at where $4 and k.secret is null`
	deleteKeySQL = `insert into es_key as k (subject, secret, at) values ($1, null, $2)
		on conflict (subject) do update set secret = null, at = excluded.at where k.secret is not null`
	// The row as it was before is in its page until then.
	vacuumKeysSQL = `vacuum es_key`
)

// FindKeys returns the subjects' keys and markers.
func (s *Store) FindKeys(ctx context.Context, subjects []string) ([]persistence.Key, error) {
	wanted := make([][]byte, len(subjects))
	for i, subject := range subjects {
		wanted[i] = []byte(subject)
	}
	return s.keys(ctx, findKeysSQL, wanted)
}

// PutKey keeps the key if the subject has none.
func (s *Store) PutKey(ctx context.Context, key persistence.Key, renew bool) (persistence.Key, error) {
	if err := key.Validate(); err != nil {
		return persistence.Key{}, err
	}
	secret := key.Secret
	if key.Forgotten {
		secret = nil
	}
	if err := s.gate.enter(ctx); err != nil {
		return persistence.Key{}, err
	}
	err := s.change(ctx, "put key", putKeySQL, []byte(key.Subject), secret, key.At, renew)
	s.gate.leave()
	if err != nil {
		return persistence.Key{}, err
	}
	winners, err := s.FindKeys(ctx, []string{key.Subject})
	if err == nil && len(winners) == 0 {
		err = errors.New("put key: it is gone again")
	}
	if err != nil {
		return persistence.Key{}, err
	}
	return winners[0], nil
}

// DeleteKey leaves a marker where a key was, and has the page cleaned that the
// secret was on.
func (s *Store) DeleteKey(ctx context.Context, subject string, at time.Time) error {
	marker := persistence.Key{Subject: subject, Forgotten: true}
	if err := marker.Validate(); err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	if err := s.change(ctx, "delete key", deleteKeySQL, []byte(subject), at); err != nil {
		return err
	}
	return s.change(ctx, "vacuum keys", vacuumKeysSQL)
}

// ListKeys returns keys and markers by subject.
func (s *Store) ListKeys(ctx context.Context, after string, limit int) ([]persistence.Key, error) {
	return s.keys(ctx, listKeysSQL, []byte(after), max(limit, 0))
}

func (s *Store) keys(ctx context.Context, sql string, args ...any) ([]persistence.Key, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	var keys []persistence.Key
	var d decoder
	err := s.each(ctx, sql, args, func(row [][]byte) error {
		keys = append(keys, persistence.Key{
			Subject: string(row[0]), Secret: d.bytes(row[1]), Forgotten: row[1] == nil, At: d.timestamp(row[2]),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return keys, nil
}
