package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ingrain-go/ingrain/persistence"
)

// The names of the sessions' roles; see sessionName.
const (
	writerRole = "ingrain writer"
	readerRole = "ingrain reader"
	memberRole = "ingrain member"
	claimRole  = "ingrain claimer"
	stepRole   = "ingrain worker"
	setupRole  = "ingrain setup"
)

const (
	connectTimeout = 5 * time.Second
	// idleCheck is how long a connection may rest before it is asked whether
	// the server still is there: an append on a dead connection would have an
	// unknown outcome.
	idleCheck = time.Second
)

// session derives from base the configuration of a session in the schema. Only
// a primary is accepted.
func session(base *pgx.ConnConfig, role, schema string, settings map[string]string) *pgx.ConnConfig {
	c := base.Copy()
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5,
	}}
	c.DialFunc = dialer.DialContext
	c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	maps.Copy(c.RuntimeParams, map[string]string{
		"application_name":              sessionName(role),
		"search_path":                   pgx.Identifier{schema}.Sanitize(),
		"client_encoding":               "UTF8",
		"timezone":                      "UTC",
		"default_transaction_isolation": "read committed", // the fence depends on it
		"jit":                           "off",
		// Every statement has its index. Without statistics, on a young store,
		// the planner would at times rather read whole tables, and a cached
		// plan keeps doing so when they have grown.
		"enable_seqscan":  "off",
		"plan_cache_mode": "force_generic_plan",
	})
	maps.Copy(c.RuntimeParams, settings)
	return c
}

// A session that died with its client must not keep its locks. These bound how
// long it takes the server to notice.
var (
	writerSettings = map[string]string{
		"tcp_user_timeout":                    "10s",
		"tcp_keepalives_idle":                 "5",
		"tcp_keepalives_interval":             "1",
		"tcp_keepalives_count":                "5",
		"idle_in_transaction_session_timeout": "10s",
		"lock_timeout":                        "5s",
		"statement_timeout":                   "30s",
		// What a writer joins is a few parameters with an index. Other joins read
		// the index from end to end, which looks cheap when the plan is made.
		"enable_mergejoin": "off",
		"enable_hashjoin":  "off",
	}
	claimSettings = map[string]string{
		"tcp_user_timeout":                    "10s",
		"tcp_keepalives_idle":                 "5",
		"idle_in_transaction_session_timeout": "10s",
		"lock_timeout":                        "10s",
		"statement_timeout":                   "15s",
	}
	memberSettings = map[string]string{
		"idle_in_transaction_session_timeout": "10s",
		"lock_timeout":                        "5s",
		"statement_timeout":                   "10s",
	}
)

// stepSettings are for sessions that run SQL which is not ours: it finds the
// tables that the user's own sessions find, behind the store's, and is planned as
// there.
func stepSettings(base *pgx.ConnConfig, schema string) map[string]string {
	path := `"$user", public`
	if own := base.RuntimeParams["search_path"]; own != "" {
		path = own
	}
	return map[string]string{
		"search_path":                         pgx.Identifier{schema}.Sanitize() + ", " + path,
		"tcp_user_timeout":                    "10s",
		"tcp_keepalives_idle":                 "5",
		"idle_in_transaction_session_timeout": "5s", // a frozen process gives its checkpoints up
		"lock_timeout":                        "10s",
		"enable_seqscan":                      "on",
		"plan_cache_mode":                     "auto",
	}
}

func (s *Store) connect(ctx context.Context, base *pgx.ConnConfig, config *Config) error {
	writer := session(base, writerRole, config.Schema, writerSettings)
	s.lanes.tokens = make(chan struct{}, config.Lanes)
	for i := range config.Lanes {
		s.lanes.put(newLane(s, i, writer))
	}
	for _, p := range []struct {
		pool     **pgxpool.Pool
		role     string
		conns    int
		settings map[string]string
	}{
		{&s.reads, readerRole, config.ReadConns, nil},
		{&s.members, memberRole, memberConns, memberSettings},
		{&s.claims, claimRole, claimConns, claimSettings},
		{&s.steps, stepRole, stepConns, stepSettings(base, config.Schema)},
	} {
		pc, err := pgxpool.ParseConfig(config.DSN)
		if err != nil {
			return &persistence.SetupError{Store: storeName, Reason: "the DSN cannot be parsed", Err: err}
		}
		pc.ConnConfig = session(base, p.role, config.Schema, p.settings)
		pc.MinConns = 0
		pc.MaxConns = int32(min(p.conns, maxConns)) //nolint:gosec // bounded
		pc.MaxConnLifetime = 0
		pc.MaxConnIdleTime = math.MaxInt64 // partitions move seldom, and then at once; see rouse
		if *p.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
			return &persistence.SetupError{Store: storeName, Reason: "make a connection pool", Err: err}
		}
	}
	return nil
}

// disconnect closes everything. No call is in flight.
func (s *Store) disconnect() {
	for _, l := range s.lanes.free {
		l.disconnect()
	}
	for _, pool := range []*pgxpool.Pool{s.reads, s.members, s.claims, s.steps} {
		if pool != nil {
			pool.Close()
		}
	}
}

// unfit explains why a first connection could not be made, or the tables not be
// set up.
func unfit(err error, base *pgx.ConnConfig, schema string) error {
	reason := "the server cannot be reached"
	var pgErr *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case errors.Is(err, pgconn.ErrStandbyConnection):
		reason = "the server is a standby, and only a primary will do"
	case errors.As(err, &pgErr):
		switch pgErr.Code {
		case "28P01", "28000":
			reason = "the server refuses the user or the password"
		case "3D000":
			reason = "there is no such database"
		case "42501":
			user, database := pgx.Identifier{base.User}.Sanitize(), pgx.Identifier{databaseOf(base)}.Sanitize()
			if errors.As(err, &connecting) {
				reason = fmt.Sprintf("the user lacks a permission (grant connect on database %s to %s)", database, user)
				break
			}
			reason = fmt.Sprintf("the user lacks a permission (to make the schema: grant create on database %s to %s; "+
				"one that is there must be his, with all that is in it: %s)", database, user, giveAway(schema, user))
		case "53300":
			reason = "the server has no connection left"
		case "57P03":
			reason = "the server is starting up or shutting down"
		default:
			reason = "the server refuses"
		}
	}
	return &persistence.SetupError{Store: storeName, Reason: reason, Err: concise(err)}
}

// giveAway is the statement that makes a schema, and all that is in it, a user's.
func giveAway(schema, user string) string {
	schema = pgx.Identifier{schema}.Sanitize()
	within := "'" + strings.ReplaceAll(schema, "'", "''") + "'::regnamespace"
	return "do $$ declare thing text; begin alter schema " + schema + " owner to " + user + "; for thing in " +
		"select 'table ' || oid::regclass from pg_class where relnamespace = " + within + " and relkind = 'r' " +
		"union all select 'routine ' || oid::regprocedure from pg_proc where pronamespace = " + within + " " +
		"loop execute 'alter ' || thing || ' owner to " + strings.ReplaceAll(user, "'", "''") + "'; end loop; end $$"
}

// conciseError is another error that says less.
type conciseError struct {
	text string
	err  error
}

func (e *conciseError) Error() string { return e.text }
func (e *conciseError) Unwrap() error { return e.err }

// concise makes a connection that could not be made say what the server said,
// or else what went wrong at each of its addresses. The driver tells of every
// attempt, and makes two at each address: one with TLS, one without.
func concise(err error) error {
	var connecting *pgconn.ConnectError
	if !errors.As(err, &connecting) {
		return err
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return &conciseError{text: pgErr.Error(), err: err}
	}
	var attempts, refused []string
	for _, attempt := range strings.Split(connecting.Unwrap().Error(), "\n") {
		switch {
		case slices.ContainsFunc(attempts, func(before string) bool { return strings.HasSuffix(before, attempt) }):
		case strings.HasSuffix(attempt, "server refused TLS connection"):
			refused = append(refused, attempt)
		default:
			attempts = append(attempts, attempt)
		}
	}
	if len(attempts) == 0 {
		attempts = slices.Compact(refused)
	}
	return &conciseError{text: strings.Join(attempts, "; "), err: err}
}
