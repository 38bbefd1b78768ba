-- What a store is: one row, written when it is created.
create table es_meta (
  one        boolean primary key default true check (one),
  store_id   uuid not null,
  partitions int not null,
  cluster    text,                -- the first cluster that joined; no other may
  created_at timestamptz not null default now()
);

-- One row for each node incarnation that ever joined, so that none joins twice.
-- Heartbeats go here and never to es_partition, whose rows are the fence.
create table es_node (
  node     text collate "C" primary key,
  address  text not null,
  types    text[] not null,
  state    text not null,
  renewals bigint not null default 0,
  host     text not null,
  lock     text not null,
  joined   timestamptz not null default now()
) with (fillfactor = 50);
create index es_node_alive on es_node (node) where state <> 'dead';

-- The fence: a partition belongs to owner under epoch. An append locks the row.
create table es_partition (
  part     int primary key,
  epoch    bigint not null default 0,
  owner    text collate "C" not null default '',
  released boolean not null default false
) with (fillfactor = 20);

-- Who held which partition under which epoch, since when.
create table es_tenure (
  part  int not null,
  epoch bigint not null,
  owner text collate "C" not null,
  at    timestamptz not null,
  primary key (part, epoch)
);

create table es_event (
  part    int not null,
  pos     bigint not null,
  epoch   bigint not null,
  stream  text collate "C" not null,
  version bigint not null,
  type    text collate "C" not null,
  at      timestamptz not null,
  cmd     uuid not null,
  meta    bytea,
  payload bytea not null,
  constraint es_event_pk primary key (part, pos),
  constraint es_event_version unique (stream, version)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);

create table es_claim (
  ns     text collate "C" not null,
  key    text collate "C" not null,
  stream text collate "C" not null,
  constraint es_claim_pk primary key (ns, key)
);

create table es_timer (
  part    int not null,
  due     timestamptz not null,
  id      uuid not null,
  stream  text collate "C" not null,
  payload bytea not null,
  constraint es_timer_pk primary key (part, due, id)
) with (autovacuum_vacuum_scale_factor = 0.01);

create table es_snapshot (
  stream  text collate "C" primary key,
  version bigint not null,
  schema  int not null,
  at      timestamptz not null,
  payload bytea not null
) with (fillfactor = 70);

create table es_checkpoint (
  projection text collate "C" not null,
  part       int not null,
  pos        bigint not null,
  primary key (projection, part)
) with (fillfactor = 50);

-- es_fence locks the partitions of an append and raises ES001 unless me owns
-- every one of them under the epoch given and its log ends at the head given.
-- The detail names the others, as JSON.
--
-- The lock must be FOR NO KEY UPDATE, in a statement of its own before any that
-- reads: it makes a claim wait for this transaction, and makes this
-- transaction see a claim that came first. The next statement has a snapshot
-- from after the lock, so that the heads it sees are the last ones. Ordering by
-- partition keeps appends from deadlocking each other.
--
-- To look up the heads of 100 partitions costs a quarter of a large append.
-- Those that the session itself wrote or looked up before are left out of
-- fresh_*; for them stands the witness, the event the session wrote last. A
-- database set back to an earlier moment has lost that one first. A head that
-- is ahead of the one given is found by es_event_pk.
create function es_fence(parts int[], epochs bigint[], heads bigint[], fresh_parts int[], fresh_heads bigint[],
                         witness_part int, witness_pos bigint, me text) returns void
language plpgsql as $$
declare
  passed int;
  refused text;
begin
  select count(*) into passed from (
    select from es_partition l join unnest(parts, epochs) i(part, epoch) on l.part = i.part
     where l.epoch = i.epoch and l.owner = me and me <> ''
     order by l.part for no key update of l) locked;
  if passed = cardinality(parts)
     and (witness_pos = 0 or exists (select from es_event e where e.part = witness_part and e.pos = witness_pos))
     and (cardinality(fresh_parts) = 0 or not exists (
       select from unnest(fresh_parts, fresh_heads) i(part, head) where i.head <> coalesce(
         (select e.pos from es_event e where e.part = i.part order by e.pos desc limit 1), 0))) then
    return;
  end if;
  select json_agg(json_build_object('part', i.part, 'epoch', l.epoch, 'owner', l.owner, 'head', h.head)) into refused
    from unnest(parts, epochs, heads) i(part, epoch, head)
    join es_partition l on l.part = i.part
    cross join lateral (select coalesce(
      (select e.pos from es_event e where e.part = i.part order by e.pos desc limit 1), 0) as head) h
   where l.epoch <> i.epoch or l.owner <> me or me = '' or h.head <> i.head;
  raise exception 'fenced' using errcode = 'ES001', detail = coalesce(refused, '[]');
end $$;

-- es_expect raises ES002 unless every stream is at the version given. The
-- detail lists the others by their ordinal, with their version, as JSON.
create function es_expect(streams text[], versions bigint[]) returns void
language plpgsql as $$
declare
  wrong text;
begin
  select json_agg(json_build_object('n', i.n, 'version', v.version)) into wrong
    from unnest(streams, versions) with ordinality i(stream, version, n)
    cross join lateral (select coalesce(
      (select e.version from es_event e where e.stream = i.stream order by e.version desc limit 1), 0) as version) v
   where v.version <> i.version;
  if wrong is not null then
    raise exception 'streams are at other versions' using errcode = 'ES002', detail = wrong;
  end if;
end $$;

-- es_exchange deletes the claims gone_*, where their streams hold them, and
-- then makes sure that the streams hold the others; otherwise it raises ES003.
-- The detail lists the claims that others hold by their ordinal, with the
-- holder, as JSON; the holder is empty when it let go at this very moment.
-- Sorting the keys keeps claimers from deadlocking each other.
create function es_exchange(gone_ns text[], gone_keys text[], gone_streams text[],
                            namespaces text[], keys text[], streams text[]) returns void
language plpgsql as $$
declare
  inserted int;
  taken text;
begin
  delete from es_claim c using unnest(gone_ns, gone_keys, gone_streams) g(ns, key, stream)
   where c.ns = g.ns and c.key = g.key and c.stream = g.stream;
  insert into es_claim (ns, key, stream)
    select i.ns, i.key, i.stream from unnest(namespaces, keys, streams) i(ns, key, stream)
     order by i.ns collate "C", i.key collate "C"
    on conflict do nothing;
  get diagnostics inserted = row_count;
  if inserted = cardinality(keys) then
    return;
  end if;
  select json_agg(json_build_object('n', i.n, 'holder', coalesce(c.stream, ''))) into taken
    from unnest(namespaces, keys, streams) with ordinality i(ns, key, stream, n)
    left join es_claim c on c.ns = i.ns and c.key = i.key
   where c.stream is distinct from i.stream;
  if taken is not null then
    raise exception 'claims are taken' using errcode = 'ES003', detail = taken;
  end if;
end $$;

-- es_take gives a partition to me under the next epoch, if it is at the epoch
-- seen and me is a live member. Its outcome is 'taken', 'lost' (the row has
-- moved on; epoch and owner are the row's) or 'stranger'. When it took, owner
-- and released are what was there before, and head is the log's end, which
-- nobody can move before this transaction ends.
--
-- The row is looked at twice: without the lock, because waiting for a lost
-- partition is waste, and under it, because only that counts. The lock waits
-- for the append in flight.
create function es_take(wanted int, seen bigint, me text,
                        out outcome text, out epoch bigint, out owner text, out released boolean, out head bigint)
language plpgsql as $$
declare
  found_row es_partition%rowtype;
begin
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

-- es_give releases a partition that me owns under the epoch held, to another
-- live member or, when heir is empty, to nobody. Outcomes as for es_take, with
-- 'given' for success and 'stranger' for an heir that is no member.
create function es_give(wanted int, held bigint, me text, heir text,
                        out outcome text, out epoch bigint, out owner text)
language plpgsql as $$
begin
  select t.epoch, t.owner into epoch, owner from es_partition t where t.part = wanted for no key update;
  if epoch is distinct from held or owner <> me or me = '' then
    outcome := 'lost';
    return;
  end if;
  if heir <> '' and not exists (select from es_node n where n.node = heir and n.state <> 'dead') then
    outcome := 'stranger';
    return;
  end if;
  update es_partition t set epoch = held + 1, owner = heir, released = true where t.part = wanted;
  insert into es_tenure values (wanted, held + 1, heir, clock_timestamp());
  outcome := 'given';
end $$;

-- es_leave marks me dead and releases what it owns.
create function es_leave(me text) returns void
language plpgsql as $$
begin
  perform from es_partition t where t.owner = me and me <> '' order by t.part for no key update;
  with given as (
    update es_partition t set epoch = t.epoch + 1, owner = '', released = true
     where t.owner = me and me <> '' returning t.part, t.epoch)
  insert into es_tenure select g.part, g.epoch, '', clock_timestamp() from given g;
  update es_node n set state = 'dead' where n.node = me and n.state <> 'dead';
end $$;
