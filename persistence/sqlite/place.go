package sqlite

import (
	"context"

	"github.com/ingrain-go/ingrain/persistence"
)

// settle notes which file the store is in. If it was another one before, the
// nodes live, if at all, where the original is, and settle marks them dead.
func (s *Store) settle(ctx context.Context, c *conn) (copied bool, err error) {
	here, err := placeOf(s.path)
	if err != nil {
		return false, err
	}
	var noted string // empty when nobody noted it yet
	look := func() error {
		_, err := c.queryRow("select coalesce(place, '') from es_meta", func(r row) { noted = r.text(0) })
		return err
	}
	if err := s.retry(ctx, look); err != nil || noted == here {
		return false, err
	}
	if err := s.begin(ctx, c); err != nil {
		return false, err
	}
	err = look() // another process may have been faster
	if copied = noted != "" && noted != here; err == nil && copied {
		_, err = c.exec("update es_node set state = ? where state <> ?", persistence.Dead, persistence.Dead)
	}
	if err == nil && noted != here {
		_, err = c.exec("update es_meta set place = ?", here)
	}
	return copied, end(c, err)
}
