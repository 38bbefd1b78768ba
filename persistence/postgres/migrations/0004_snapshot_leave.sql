-- The last event in a snapshot, es_event's cmd and at: a log that was set back
-- can have another one of that version. Snapshots that do not say it are of no
-- use, and can be taken again.
truncate es_snapshot;
alter table es_snapshot add column last_cmd uuid, add column last_at timestamptz;

-- es_take is what it was, and keeps off es_leave of the same node: between a look
-- at the node's row and the end of the claim the node could otherwise leave, and
-- the partition would be a dead node's without having been released. The lock is
-- not on the row, so that renewals and evictions do not wait for claims, which
-- wait for appends. It comes before any partition's, in both.
create or replace function es_take(wanted int, seen bigint, me text,
                        out outcome text, out epoch bigint, out owner text, out released boolean, out head bigint)
language plpgsql as $$
declare
  found_row es_partition%rowtype;
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('ingrain node ' || me, 0));
  for pass in 1..2 loop
    if pass = 1 then
      select * into found_row from es_partition t where t.part = wanted;
    else
      select * into found_row from es_partition t where t.part = wanted for no key update;
    end if;
    epoch := found_row.epoch;
    owner := found_row.owner;
    released := found_row.released;
    if not exists (select from es_node n where n.node = me and n.state <> 'dead') then
      outcome := 'stranger';
      return;
    end if;
    if found_row.epoch is distinct from seen then
      outcome := 'lost';
      return;
    end if;
  end loop;
  update es_partition t set epoch = seen + 1, owner = me, released = false where t.part = wanted;
  insert into es_tenure values (wanted, seen + 1, me, clock_timestamp());
  select coalesce(max(e.pos), 0) into head from es_event e where e.part = wanted;
  epoch := seen + 1;
  outcome := 'taken';
end $$;

-- es_leave is what it was, and waits for the claims of me that are in flight; see
-- es_take. Those that come later find a dead node.
create or replace function es_leave(me text) returns void
language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('ingrain node ' || me, 0));
  perform from es_partition t where t.owner = me and me <> '' order by t.part for no key update;
  with given as (
    update es_partition t set epoch = t.epoch + 1, owner = '', released = true
     where t.owner = me and me <> '' returning t.part, t.epoch)
  insert into es_tenure select g.part, g.epoch, '', clock_timestamp() from given g;
  update es_node n set state = 'dead' where n.node = me and n.state <> 'dead';
end $$;
