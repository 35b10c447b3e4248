"use strict";
/* Rows of the state's lists: find, remove, add, sort and search. */
{
  phone.find = (rows, id) => rows.find((row) => row.id === id);

  phone.remove = (rows, id) => {
    const at = rows.findIndex((row) => row.id === id);
    if (at >= 0) rows.splice(at, 1);
  };

  /* Append a row under the next free id, such as "c4" with prefix "c". */
  phone.add = (rows, prefix, row) => {
    const numbers = rows.map((other) => Number(/^[a-z]+(\d+)$/.exec(other.id)?.[1] ?? 0));
    const id = prefix + (Math.max(0, ...numbers) + 1);
    rows.push({ id, ...row });
    return id;
  };

  /* The order by a value: phone.by((row) => row.date), and the latest first: phone.by((row) => row.date, -1). */
  phone.by = (value, sign = 1) => (one, other) =>
    value(one) < value(other) ? -sign : value(one) > value(other) ? sign : 0;

  /* Whether a text contains what was typed into a search field. */
  phone.contains = (text, query = "") => text.toLowerCase().includes(query.trim().toLowerCase());
}
