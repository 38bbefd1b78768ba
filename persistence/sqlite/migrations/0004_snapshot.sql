-- The last event in a snapshot, es_event's cmd and at: a log that was set back
-- can have another one of that version. Snapshots that do not say it are of no
-- use, and can be taken again.
alter table es_snapshot add column last_cmd blob;
alter table es_snapshot add column last_at integer;
delete from es_snapshot;
