package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// missingGrantsSQL lists the statements that give the user what a node needs and
// he lacks, of what is in the schema. Of a table that is not named here that is
// everything. Locking a row counts as updating it.
const missingGrantsSQL = `
	select format('grant %s on table %I.%I to %I', string_agg(needed, ', ' order by n), $1::text, c.relname, current_user)
	  from pg_class c
	 cross join unnest(case c.relname
		when 'es_migration' then '{select}'
		when 'es_meta' then '{select,update}'
		when 'es_node' then '{select,insert,update}'
		when 'es_partition' then '{select,update}'
		when 'es_tenure' then '{insert}'
		when 'es_event' then '{select,insert,update}'
		when 'es_claim' then '{select,insert,delete}'
		else '{select,insert,update,delete}' end::text[]) with ordinality t(needed, n)
	 where c.relnamespace = (select oid from pg_namespace where nspname = $1) and c.relkind in ('r', 'p') and c.relname like 'es\_%'
	   and not has_table_privilege(c.oid, needed)
	 group by c.relname
	union all
	select format('grant execute on function %I.%I(%s) to %I', $1::text, p.proname, pg_get_function_identity_arguments(p.oid), current_user)
	  from pg_proc p
	 where p.pronamespace = (select oid from pg_namespace where nspname = $1) and p.proname like 'es\_%'
	   and not has_function_privilege(p.oid, 'execute')
	 order by 1`

// checkGrants refuses a user who could open the store, and then not be a node in
// it. The owner of all there is lacks nothing.
func checkGrants(ctx context.Context, tx pgx.Tx, schema string) error {
	rows, err := tx.Query(ctx, missingGrantsSQL, schema)
	if err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(missing) > 0 {
		err = refuse("the user lacks a permission that nodes need: %s", strings.Join(missing, "; "))
	}
	return err
}
