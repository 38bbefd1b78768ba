"use strict";

const $ = (id) => document.getElementById(id);
const colours = 8;
const every = 700; // milliseconds between two looks

const make = (tag, attributes = {}, ...children) => {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") e.className = value;
    else if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
};
const number = (n) => n.toLocaleString("en-US");
const money = (cents) => (cents / 100).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const colour = (node) => (node < 0 ? "" : "o" + (node % colours));

// A request id is a UUID of version 7. The same id sent twice is one order.
const uuid7 = () => {
  const b = crypto.getRandomValues(new Uint8Array(16));
  let at = Date.now();
  for (let i = 5; i >= 0; i--) { b[i] = at % 256; at = Math.floor(at / 256); }
  b[6] = (b[6] & 0x0f) | 0x70;
  b[8] = (b[8] & 0x3f) | 0x80;
  return Array.from(b, (x) => x.toString(16).padStart(2, "0")).join("");
};

const ask = async (path, body) => {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  const response = await fetch(path, options);
  const answer = await response.json();
  if (answer.error) throw Object.assign(new Error(answer.error.message), answer.error);
  return answer;
};

const say = (text, good) => {
  $("message").textContent = text;
  $("message").className = "message " + (good ? "good" : "bad");
};

// --- the market -----------------------------------------------------------

const rung = (side, level, most, book) => {
  if (!level) return make("tr", { class: side + " empty" }, make("td"), make("td"), make("td"));
  const width = Math.max(2, Math.round(100 * level.quantity / most));
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  rect.setAttribute("x", (100 - width) + "%");
  rect.setAttribute("width", width + "%");
  rect.setAttribute("height", "100%");
  rect.setAttribute("fill", "currentColor");
  bar.append(rect);
  return make("tr", { class: side, title: "use this price", onpointerdown: () => fill(book, side === "ask" ? "buy" : "sell", level.price) },
    make("td", {}, number(level.orders)), make("td", {}, money(level.price)), make("td", { class: "depth" }, bar, number(level.quantity)));
};

const depth = 8;
const card = (row, nodes) => {
  const owner = nodes.findIndex((n) => n.id === row.owner);
  const where = make("small", {}, make("i", { class: "dot " + colour(owner) }), owner < 0 ? "no owner" : "on " + nodes[owner].name);
  if (!row.book) {
    return make("article", { class: "card" }, make("h2", {}, row.id, where), make("p", { class: "lost" }, row.error.kind + ": " + row.error.message));
  }
  const b = row.book;
  const most = Math.max(1, ...b.bids.map((l) => l.quantity), ...b.asks.map((l) => l.quantity));
  const body = make("tbody");
  for (let i = depth - 1; i >= 0; i--) body.append(rung("ask", b.asks[i], most, row.id));
  const spread = b.bids[0] && b.asks[0] ? "spread " + money(b.asks[0].price - b.bids[0].price) : "one side is empty";
  body.append(make("tr", { class: "gap" }, make("td", { colspan: "3" }, spread)));
  for (let i = 0; i < depth; i++) body.append(rung("bid", b.bids[i], most, row.id));
  const last = b.tape[0];
  const tape = make("tbody");
  for (const t of b.tape.slice(0, 7)) {
    tape.append(make("tr", {}, make("td", {}, "#" + number(t.number)), make("td", {}, number(t.quantity)),
      make("td", { class: t.taker === "buy" ? "up" : "down" }, money(t.price))));
  }
  return make("article", { class: "card" },
    make("h2", {}, b.company, where),
    make("p", { class: "last" }, make("b", { class: "num " + (last ? (last.taker === "buy" ? "up" : "down") : "") }, last ? money(last.price) : "–"),
      make("small", {}, number(b.trades) + " trades")),
    make("table", { class: "ladder" }, make("thead", {}, make("tr", {}, make("th", {}, "orders"), make("th", {}, "price"), make("th", {}, "quantity"))), body),
    make("table", { class: "tape" }, make("caption", {}, "latest trades, by their taker"), tape));
};

const link = (n, i) => {
  const attributes = { class: [n.self ? "self" : "", n.state === "dead" ? "dead" : ""].join(" ") };
  if (n.http) attributes.href = "http://" + n.http + "/";
  attributes.title = n.state + (n.pid ? ", process " + n.pid : "") + (n.address ? ", " + n.address : "");
  return make("a", attributes, make("i", { class: n.state === "dead" ? "" : colour(i) }), n.name, make("small", {}, n.state === "dead" ? "dead" : n.owns));
};

const show = ({ cluster, books }) => {
  $("nodes").replaceChildren(...cluster.nodes.map(link));
  $("books").replaceChildren(...books.map((b) => card(b, cluster.nodes)));
  const held = new Set(books.map((b) => b.partition));
  $("map").replaceChildren(...cluster.partitions.map((p, i) => make("i", {
    class: colour(p.o), title: `partition ${i}: ${p.o < 0 ? "nobody" : cluster.nodes[p.o].name}, epoch ${p.e}`,
  }, held.has(i) ? "●" : "")));
  $("spread").textContent = cluster.partitions.length + " partitions";
  const figures = [
    ["commands", number(cluster.commands)], ["acknowledged", number(cluster.acknowledged)], ["rejected", number(cluster.rejected)],
    ["p50", cluster.p50_ms.toFixed(1) + " ms"], ["p99", cluster.p99_ms.toFixed(1) + " ms"],
    ["settled steps", number(cluster.steps)],
  ];
  $("figures").replaceChildren(...figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  if (!$("book").options.length) {
    $("book").replaceChildren(...books.map((b) => make("option", { value: b.id }, b.book ? b.book.company : b.id)));
  }
};

// --- your desk ------------------------------------------------------------

let user = new URLSearchParams(location.search).get("user") || sessionStorage.getItem("user") || "";
let request = uuid7();
let shown = "";

const fill = (book, side, price) => {
  if (!user) return;
  $("book").value = book;
  $("price").value = (price / 100).toFixed(2);
  request = uuid7(); // another order: a value that is set raises no input event
  document.querySelector(`input[name=side][value=${side}]`).checked = true;
  $("quantity").focus();
};

const mine = async () => {
  if (!user) return;
  const p = await ask("/api/portfolios/" + encodeURIComponent(user));
  const now = JSON.stringify(p);
  if (now === shown) return; // leaves the buttons alone, and the focus on them
  shown = now;
  $("order").hidden = $("portfolio").hidden = false;
  $("available").textContent = money(p.available);
  $("reserved").textContent = money(p.reserved);
  const shares = p.holdings.flatMap((h, i) => [i ? " · " : "", h.book + " ", make("b", {}, number(h.available)), h.reserved ? ` + ${number(h.reserved)} reserved` : ""]);
  $("holdings").replaceChildren(...shares);
  $("open").tBodies[0].replaceChildren(...p.orders.slice(-8).map((o) => make("tr", {},
    make("td", { class: o.side === "buy" ? "up" : "down" }, o.side), make("td", {}, `${number(o.remaining)} ${o.book}`), make("td", {}, "at " + money(o.limit)),
    make("td", {}, make("button", { type: "button", onclick: () => cancel(o) }, "cancel")))));
};

const cancel = async (o) => {
  try {
    await ask(`/api/orders/${o.id}/cancel`, { user, book: o.book });
    say("cancelled", true);
  } catch (e) {
    say((e.kind ? e.kind + ": " : "") + e.message);
  }
};

// cents reads a price without floating point.
const cents = (text) => {
  const m = /^(\d{1,9})(?:\.(\d{1,2}))?$/.exec(text.trim());
  return m ? Number(m[1]) * 100 + Number((m[2] || "").padEnd(2, "0")) : NaN;
};

$("user").value = user;
$("account").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("user").value;
  try {
    user = (await ask("/api/users", { name })).user;
    say("welcome, " + user, true);
  } catch (e) {
    if (e.code !== "name-taken") return say((e.kind ? e.kind + ": " : "") + e.message);
    user = name.trim().toLowerCase();
    say("welcome back, " + user, true);
  }
  sessionStorage.setItem("user", user);
});

$("order").addEventListener("input", () => { request = uuid7(); }); // another order
$("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const price = cents(form.get("price"));
  const quantity = Number(form.get("quantity"));
  if (!Number.isInteger(price) || !Number.isInteger(quantity)) return say("a limit like 10.05 and a whole quantity, please");
  try {
    const o = await ask("/api/orders", { user, book: form.get("book"), side: form.get("side"), price, quantity, request });
    say(o.duplicate ? "that order was placed already" : "order placed", true);
    request = uuid7(); // the next click is another order
  } catch (e) {
    if (e.kind === "rejected" || e.kind === "invalid") request = uuid7();
    say((e.kind ? e.kind + ": " : "") + e.message);
  }
});

// --- looking --------------------------------------------------------------

const look = async () => {
  try {
    show(await ask("/api/state"));
    $("lamp").className = "lamp on";
    $("lamp").lastChild.textContent = "live";
  } catch {
    $("lamp").className = "lamp";
    $("lamp").lastChild.textContent = "this node does not answer";
  }
  try { await mine(); } catch { /* shown by the lamp, or not signed up yet */ }
  setTimeout(look, every);
};
look();
