-- Events that a projection could not handle, and those parked behind them.
create table es_dead_letter (
  projection text    not null,
  part       integer not null,
  pos        integer not null,
  sequence   text    not null,
  stream     text    not null,
  type       text    not null,
  cause      text    not null,
  attempts   integer not null,
  at         integer not null,
  primary key (projection, part, pos)
) without rowid;
create index es_dead_letter_stream on es_dead_letter (stream);
