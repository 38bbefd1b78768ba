-- A node's share of the partitions; 0 is the share of one that does not say.
-- The members that it could not reach when it renewed last; null for one that
-- never said.
alter table es_node add column weight bigint not null default 0, add column suspects text[];
-- Where the store is, so that a copy of it can be told; null until the first
-- opening by a build that keeps it.
alter table es_meta add column place text;
