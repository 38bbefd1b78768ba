package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
)

// pgbenchRows is how many rows the server alone inserts in one transaction.
const pgbenchRows = 300

// baseline is what the server does without us: the same rows in the same table,
// and nothing else.
type baseline struct {
	dsn    string
	binary string
	script string

	inserted int64 // rows of pgbench
	single   atomic.Int64
}

// singlePartition is above those of the store and of pgbench.
const singlePartition = 1 << 20

func (b *bench) newBaseline(ctx context.Context) (*baseline, error) {
	dsn, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	return b.newBaselineIn(ctx, dsn)
}

// newBaselineIn does it in a database that is empty.
func (b *bench) newBaselineIn(ctx context.Context, dsn string) (*baseline, error) {
	store, err := pgstore.Open(ctx, pgstore.Config{DSN: dsn}) // makes the tables
	if err != nil {
		return nil, err
	}
	partitions := store.Meta().Partitions
	if err := store.Close(); err != nil {
		return nil, err
	}
	if err := execute(ctx, dsn, "create sequence base_version cache 1"); err != nil {
		return nil, err
	}
	base := &baseline{dsn: dsn}
	if base.binary, err = b.findPgbench(); err != nil {
		return nil, err
	}
	base.script = fmt.Sprintf(`insert into ingrain.es_event (part, pos, epoch, stream, version, type, at, cmd, meta, payload)
select (v %% %d)::int, v, 1, '%s/' || lpad(to_hex((v * 2654435761) %% %d), 8, '0') || '-0000-4000', v, 'booked', now(),
       '01a1fc30-4ddd-7b78-8311-1cbb0d863677', null, decode(repeat('61', %d), 'hex')
  from (select nextval('base_version') v from generate_series(1, %d)) q;
`, partitions, accountType, concurrent, storedBytes, pgbenchRows)
	return base, nil
}

func (b *bench) findPgbench() (string, error) {
	if b.server != nil {
		path := filepath.Join(b.server.Bin(), "pgbench")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath("pgbench"); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if err != nil || len(found) == 0 {
		return "", errors.New("no pgbench found: it comes with the PostgreSQL server; put it on PATH")
	}
	return found[len(found)-1], nil
}

var (
	pgbenchDone = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	pgbenchRate = regexp.MustCompile(`tps = ([\d.]+) \(without initial connection time\)`)
)

// pgbench lets the server insert for d, in whole seconds.
func (b *baseline) pgbench(ctx context.Context, d time.Duration) (s sample, err error) {
	file, err := os.CreateTemp("", "ingrain-speed-*.sql")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	if _, err := file.WriteString(b.script); err != nil {
		return s, errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return s, err
	}
	seconds := max(1, int(math.Round(d.Seconds())))
	cmd := exec.CommandContext(ctx, b.binary, "-n", "-M", "prepared", "-c", "2", "-j", "1",
		"-T", strconv.Itoa(seconds), "-f", file.Name(), b.dsn)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return s, fmt.Errorf("pgbench: %w\n%s", err, output.String())
	}
	done, rate := pgbenchDone.FindSubmatch(output.Bytes()), pgbenchRate.FindSubmatch(output.Bytes())
	if done == nil || rate == nil {
		return s, fmt.Errorf("pgbench printed no rate:\n%s", output.String())
	}
	transactions, err := strconv.ParseInt(string(done[1]), 10, 64)
	if err != nil {
		return s, err
	}
	tps, err := strconv.ParseFloat(string(rate[1]), 64)
	if err != nil {
		return s, err
	}
	s.n, s.batch = transactions*pgbenchRows, pgbenchRows
	s.elapsed = time.Duration(float64(transactions) / tps * float64(time.Second))
	b.inserted += s.n
	return s, nil
}

const insertOne = `insert into ingrain.es_event (part, pos, epoch, stream, version, type, at, cmd, meta, payload)
values ($1, $2, 1, $3, $2, 'booked', now(), $4, null, $5)`

// singles inserts one row after the other on one connection, each in its own
// transaction: one commit per round trip.
func (b *baseline) singles(ctx context.Context, d time.Duration) (s sample, err error) {
	conn, err := pgx.Connect(ctx, b.dsn)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	row := payload(storedBytes)
	s.n, s.elapsed, err = closedLoop(ctx, d, 1, func(int) error {
		_, err := conn.Exec(ctx, insertOne, singlePartition, b.single.Add(1), accountType+"/hot", [16]byte{}, row)
		return err
	})
	return s, err
}

// singlesAt does the same at a rate, on as many connections as it takes.
func (b *baseline) singlesAt(ctx context.Context, d time.Duration, rate int) (s sample, err error) {
	const conns = 16
	config, err := pgxpool.ParseConfig(b.dsn)
	if err != nil {
		return s, err
	}
	config.MaxConns, config.MinConns = conns, conns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return s, err
	}
	defer pool.Close()
	row := payload(storedBytes)
	insert := func(int) error {
		v := b.single.Add(1)
		_, err := pool.Exec(ctx, insertOne, singlePartition+int(v)%256, v, accountType+"/"+accountID(int(v)%concurrent), [16]byte{}, row)
		return err
	}
	if _, _, err := closedLoop(ctx, 100*time.Millisecond, conns, insert); err != nil { // connects and prepares
		return s, err
	}
	begin := time.Now()
	s.latencies, err = openLoop(ctx, d, rate, insert)
	s.n, s.elapsed = int64(len(s.latencies)), time.Since(begin)
	return s, err
}

// check compares the table with what was inserted.
func (b *baseline) check(ctx context.Context) error {
	var many, single int64
	err := ask(ctx, b.dsn, fmt.Sprintf(`select count(*) filter (where part < %d), count(*) filter (where part >= %d) from ingrain.es_event`,
		singlePartition, singlePartition), &many, &single)
	if err != nil {
		return err
	}
	if many != b.inserted || single != b.single.Load() {
		return fmt.Errorf("the baseline's table has %d and %d rows, but pgbench reported %d and single INSERTs were %d",
			many, single, b.inserted, b.single.Load())
	}
	return nil
}
