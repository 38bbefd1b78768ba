-- The store that an import is from; null where there was none.
alter table es_meta add column source text;
-- What erasing a stream has to find.
create index es_claim_stream on es_claim (stream);

-- Secrets by subject; null for one that was forgotten.
create table es_key (
  subject text    primary key,
  secret  blob,
  at      integer not null
) without rowid;
