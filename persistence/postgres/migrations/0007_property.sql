-- The store that an import is from; null where there was none.
alter table es_meta add column source text;
-- What erasing a stream has to find.
create index es_claim_stream on es_claim (stream);

-- Secrets by subject; null for one that was forgotten.
create table es_key (
  subject bytea primary key,
  secret  bytea,
  at      timestamptz not null
);

-- es_erase takes out of the log what a stream says, under the fence of its
-- partition, and returns the version that the stream had. An empty name in place
-- of into_stream leaves the events alone.
--
-- Changing the stream of an event is a change of a key: it waits for those who
-- save a snapshot and have locked the snapshot's last event, and makes those who
-- come later not find it; see saveSnapshotsSQL. So the snapshot is deleted last.
create function es_erase(wanted text, into_type text, in_part int, in_epoch bigint, in_head bigint, me text) returns bigint
language plpgsql as $$
declare
  reached bigint;
  first_pos bigint;
begin
  perform es_fence(array[in_part], array[in_epoch], array[in_head], array[in_part], array[in_head], 0, 0, me);
  select coalesce(max(e.version), 0), coalesce(min(e.pos), 0) into reached, first_pos from es_event e where e.stream = wanted;
  if reached > 0 then
    update es_event e set stream = into_type || '/' || in_part || '-' || first_pos, type = into_type,
        cmd = '00000000-0000-0000-0000-000000000000', meta = null, payload = ''
     where e.stream = wanted;
  end if;
  delete from es_timer t where t.stream = wanted;
  delete from es_claim c where c.stream = wanted;
  delete from es_dead_letter l where l.stream = wanted;
  delete from es_snapshot s where s.stream = wanted;
  return reached;
end $$;
