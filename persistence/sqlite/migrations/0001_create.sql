-- "Ingr": how an Ingrain store is told from any other SQLite file.
pragma application_id = 1231972210;

create table es_meta (
  one        integer primary key check (one = 1),
  store_id   text    not null,
  partitions integer not null,
  cluster    text,             -- set by the first join
  created_at integer not null  -- microseconds since 1970, as every time here
);

-- Nodes are never deleted: an id is never reused.
create table es_node (
  node      text    primary key,
  address   text    not null,
  types     text    not null,  -- JSON array
  state     text    not null,
  renewals  integer not null default 0,
  host      text    not null,
  lock      text    not null,
  joined_at integer not null
) without rowid;

create table es_partition (
  part     integer primary key,
  epoch    integer not null default 0,
  owner    text    not null default '',
  released integer not null default 0
);

-- Who held which epoch: an event's (part, epoch) names the node that wrote it.
create table es_tenure (
  part  integer not null,
  epoch integer not null,
  owner text    not null,
  at    integer not null,
  primary key (part, epoch)
) without rowid;

-- A rowid table on purpose: rows are appended at one end of it, which SQLite
-- does fastest, and the two indexes are small.
create table es_event (
  part    integer not null,
  pos     integer not null,
  epoch   integer not null,
  stream  text    not null,
  version integer not null,
  type    text    not null,
  at      integer not null,
  cmd     blob    not null,
  meta    blob,
  payload blob,
  primary key (part, pos)
);
create unique index es_event_version on es_event (stream, version);

create table es_claim (
  ns     text not null,
  key    text not null,
  stream text not null,
  primary key (ns, key)
) without rowid;

create table es_snapshot (
  stream  text    primary key,
  version integer not null,
  schema  integer not null,
  at      integer not null,
  payload blob
);

create table es_timer (
  part    integer not null,
  due     integer not null,
  id      blob    not null,
  stream  text    not null,
  payload blob,
  primary key (part, due, id)
);

create table es_checkpoint (
  projection text    not null,
  part       integer not null,
  pos        integer not null,
  primary key (projection, part)
) without rowid;
