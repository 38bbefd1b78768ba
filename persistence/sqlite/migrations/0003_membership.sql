-- A node's share of the partitions; 0 is the share of one that does not say.
alter table es_node add column weight integer not null default 0;
-- The members that the node could not reach when it renewed last, a JSON array;
-- null for one that never said.
alter table es_node add column suspects text;
-- Which file this is, so that a copy of it can be told; null until the first
-- opening by a build that keeps it.
alter table es_meta add column place text;
