-- A stream has one timer of a name. Those that were set without one get a name
-- that nobody else has. The columns of before stay as they are, for the builds
-- of before, which set no timers but prepare to.
alter table es_timer add column name text collate "C";
update es_timer set name = 'unnamed-' || encode(uuid_send(id), 'hex') || '-' || (extract(epoch from due) * 1000000)::bigint;
alter table es_timer alter column name set not null;
alter table es_timer drop constraint es_timer_pk;
alter table es_timer add constraint es_timer_pk primary key (stream, name);
create index es_timer_due on es_timer (part, due);
