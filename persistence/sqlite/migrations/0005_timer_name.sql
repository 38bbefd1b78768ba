-- A stream has one timer of a name. Those that were set without one get a name
-- that nobody else has.
create table es_named_timer (
  stream  text    not null,
  name    text    not null,
  part    integer not null,
  due     integer not null,
  id      blob    not null,  -- of the command that set it
  payload blob,
  primary key (stream, name)
) without rowid;
insert into es_named_timer (stream, name, part, due, id, payload)
  select stream, 'unnamed-' || lower(hex(id)) || '-' || due, part, due, id, payload from es_timer;
drop table es_timer;
alter table es_named_timer rename to es_timer;
create index es_timer_due on es_timer (part, due);
