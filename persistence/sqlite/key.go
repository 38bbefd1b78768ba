package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const selectKey = "select subject, secret, at from es_key where subject = ?"

// FindKeys returns the subjects' keys and markers.
func (s *Store) FindKeys(ctx context.Context, subjects []string) ([]persistence.Key, error) {
	var found []persistence.Key
	wanted := slices.Compact(slices.Sorted(slices.Values(subjects)))
	err := s.view(ctx, func(c *conn) error {
		found = nil
		for _, subject := range wanted {
			_, err := c.queryRow(selectKey, func(r row) { found = append(found, scanKey(r)) }, subject)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find %d keys: %w", len(subjects), err)
	}
	return found, nil
}

// PutKey keeps the key if the subject has none.
func (s *Store) PutKey(ctx context.Context, key persistence.Key, renew bool) (persistence.Key, error) {
	if err := key.Validate(); err != nil {
		return persistence.Key{}, err
	}
	var winner persistence.Key
	err := s.write(ctx, func(c *conn) error {
		_, err := c.exec(`insert into es_key (subject, secret, at) values (?, ?, ?)
			on conflict (subject) do update set secret = excluded.secret, at = excluded.at where ? and es_key.secret is null`,
			key.Subject, key.Secret, key.At, renew)
		if err != nil {
			return err
		}
		_, err = c.queryRow(selectKey, func(r row) { winner = scanKey(r) }, key.Subject)
		return err
	})
	if err != nil {
		return persistence.Key{}, fmt.Errorf("put key of %q: %w", key.Subject, err)
	}
	return winner, nil
}

// DeleteKey leaves a marker where a key was, and overwrites the secret.
func (s *Store) DeleteKey(ctx context.Context, subject string, at time.Time) error {
	marker := persistence.Key{Subject: subject, Forgotten: true}
	if err := marker.Validate(); err != nil {
		return err
	}
	err := s.shred(ctx, func(w *writer) error {
		_, err := w.conn.exec(`insert into es_key (subject, secret, at) values (?, null, ?)
			on conflict (subject) do update set secret = null, at = excluded.at where es_key.secret is not null`, subject, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete key of %q: %w", subject, err)
	}
	return nil
}

// ListKeys returns keys and markers by subject.
func (s *Store) ListKeys(ctx context.Context, after string, limit int) ([]persistence.Key, error) {
	var keys []persistence.Key
	err := s.read(ctx, func(c *conn) error {
		keys = nil
		return c.query("select subject, secret, at from es_key where subject > ? order by subject limit ?", func(r row) error {
			keys = append(keys, scanKey(r))
			return nil
		}, after, max(limit, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

func scanKey(r row) persistence.Key {
	secret := r.blob(1)
	return persistence.Key{Subject: r.text(0), Secret: secret, Forgotten: len(secret) == 0, At: r.time(2)}
}
