-- Events that a projection could not handle, and those parked behind them.
-- Sequence and cause are any bytes.
create table es_dead_letter (
  projection text collate "C" not null,
  part       int not null,
  pos        bigint not null,
  sequence   bytea not null,
  stream     text collate "C" not null,
  type       text collate "C" not null,
  cause      bytea not null,
  attempts   int not null,
  at         timestamptz not null,
  primary key (projection, part, pos)
);
create index es_dead_letter_stream on es_dead_letter (stream);

-- es_advance locks the checkpoints of a step, raises ES001 unless me owns every
-- partition whose epoch is not 0 under that epoch, raises ES004 unless every
-- checkpoint is where the step starts, and moves them.
--
-- The checkpoints' locks come first, in the order of the partitions, which keeps
-- steps from deadlocking each other; the rows of es_partition are read after
-- them, in a statement of its own and so with a snapshot of its own, and not
-- locked: they are the fence of appends. Whoever has the lock after a step under
-- a later epoch sees that epoch, because it was committed before that step began.
create function es_advance(wanted text, me text, parts int[], epochs bigint[], froms bigint[], tos bigint[]) returns void
language plpgsql as $$
declare
  refused text;
begin
  if exists (select from unnest(parts) i(part) where not exists (
      select from es_checkpoint c where c.projection = wanted and c.part = i.part)) then
    insert into es_checkpoint (projection, part, pos) select wanted, i.part, 0 from unnest(parts) i(part) order by i.part
      on conflict do nothing;
  end if;
  perform from es_checkpoint c where c.projection = wanted and c.part = any(parts) order by c.part for no key update;
  select json_agg(json_build_object('part', i.part, 'epoch', l.epoch, 'owner', l.owner)) into refused
    from unnest(parts, epochs) i(part, epoch) join es_partition l on l.part = i.part
   where i.epoch <> 0 and (l.epoch <> i.epoch or l.owner <> me or me = '');
  if refused is not null then
    raise exception 'fenced' using errcode = 'ES001', detail = refused;
  end if;
  select json_agg(json_build_object('part', i.part, 'head', coalesce(c.pos, 0)) order by i.part) into refused
    from unnest(parts, froms) i(part, pos)
    left join es_checkpoint c on c.projection = wanted and c.part = i.part
   where coalesce(c.pos, 0) <> i.pos;
  if refused is not null then
    raise exception 'checkpoints have moved' using errcode = 'ES004', detail = refused;
  end if;
  update es_checkpoint c set pos = i.pos from unnest(parts, tos) i(part, pos)
   where c.projection = wanted and c.part = i.part and c.pos <> i.pos;
end $$;
