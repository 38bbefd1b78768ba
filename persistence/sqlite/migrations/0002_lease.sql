-- How long a node may answer without asking, in microseconds; null for one that
-- joined before this was kept.
alter table es_node add column lease integer;
