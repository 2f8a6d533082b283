// SPDX-License-Identifier: GPL-3.0-or-later
// The hub's page. Everything that came from elsewhere is put in as text, never as HTML.
"use strict";

const KEY = "pifleet-token";
const BAD = ["failed", "rollback_failed", "rolled_back", "missing", "drifted"];
const GOOD = ["synced", "succeeded", "completed"];
const BEGIN_AGAIN = 5000; // milliseconds until events are followed again after a connection ended
const $ = (id) => document.getElementById(id);
let following = null;

function make(tag, text, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined && text !== null) made.textContent = String(text);
  return made;
}

function marked(status) {
  return make("span", status, { className: BAD.includes(status) ? "bad" : GOOD.includes(status) ? "good" : "wait" });
}

function when(text) {
  return text ? make("time", new Date(text).toLocaleString(), { dateTime: text }) : make("span", "–");
}

function say(text) {
  $("message").textContent = text;
}

class Problem extends Error {}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` };
  const options = { headers };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(path, options);
  const table = await answer.json().catch(() => ({}));
  if (answer.status === 401) forget();
  if (!answer.ok) throw new Problem(table.detail || `The hub answered ${answer.status}.`);
  return table;
}

// Shows rows as a table; on a narrow screen each cell has the column's name before it.
function table(names, rows, none) {
  if (!rows.length) return make("p", none);
  const made = make("table");
  const head = make("tr");
  names.forEach((name) => head.append(make("th", name, { scope: "col" })));
  made.append(make("thead"), make("tbody"));
  made.tHead.append(head);
  for (const cells of rows) {
    const row = make("tr");
    cells.forEach((cell, at) => {
      const made = make("td");
      made.dataset.name = names[at];
      made.append(cell instanceof Node ? cell : make("span", cell === "" ? "–" : cell));
      row.append(made);
    });
    made.tBodies[0].append(row);
  }
  return made;
}

function put(section, ...parts) {
  $(section).querySelector(".content").replaceChildren(...parts);
}

function drift(stack) {
  const list = make("ul");
  stack.drift.forEach((one) => list.append(make("li", `${one.service || "stack"}: ${one.reason}${one.detail ? ` (${one.detail})` : ""}`)));
  return stack.drift.length ? list : make("span", "none");
}

async function showFleet() {
  const { items } = await call("/api/nodes");
  const rows = items.map((node) => [
    node.node,
    Object.entries(node.stacks).map(([status, count]) => `${count} ${status}`).join(", "),
    when(node.observed_at),
    node.problem ? make("span", node.problem, { className: "bad" }) : make("span", "answered", { className: "good" }),
  ]);
  put("fleet", table(["Node", "Stacks", "Seen", "Last time"], rows, "No node was asked yet."));
  const status = await call("/api/refresh-status");
  $("refresh-status").textContent = status.state === "never" ? "" : `${status.state}${status.problem ? `: ${status.problem}` : ""}`;
  return status.state;
}

async function showStacks() {
  const { items, total } = await call("/api/stacks?limit=100");
  const rows = items.map((stack) => {
    const action = make("span", "–");
    if (stack.awaiting_acknowledgement) {
      const button = make("button", "Acknowledge", { type: "button" });
      button.setAttribute("aria-label", `Acknowledge the plan of ${stack.name} on ${stack.node}`);
      button.onclick = () => act(button, async () => {
        await call(`/api/stacks/${encodeURIComponent(stack.node)}/${stack.name}/acknowledgements`, { plan_digest: stack.plan_digest });
        return `The plan of ${stack.name} on ${stack.node} is carried out.`;
      });
      action.replaceChildren(button);
    }
    return [stack.node, stack.name, marked(stack.status), drift(stack), action];
  });
  const more = total > items.length ? [make("p", `${items.length} of ${total} are shown.`)] : [];
  put("stacks", table(["Node", "Stack", "Status", "Drift", "Action"], rows, "No stacks are known."), ...more);
}

async function showReleases() {
  const { items } = await call("/api/releases?limit=10");
  const rows = items.map((release) => [release.environment, release.version, marked(release.status), when(release.timestamp), release.current ? "live" : ""]);
  put("releases", table(["Environment", "Version", "Status", "Created", "Live"], rows, "There are no releases."));
}

async function showRuns() {
  const { items } = await call("/orchestrator/runs?limit=10");
  const rows = items.map((run) => [run.id, run.node, marked(run.status), run.requester, run.reason || run.instruction]);
  put("runs", table(["Fix run", "Node", "Status", "Asked for by", "What"], rows, "There are no fix runs."));
}

async function showQueue() {
  const queue = await call("/api/queue");
  const state = make("span", queue.ok ? "in order" : "not in order", { className: queue.ok ? "good" : "bad" });
  put("queue", table(["Kind", "State", "Waiting", "Workers", "Problem"], [[queue.kind, state, queue.pending, queue.workers, queue.problem]], ""));
}

async function diffOf(run) {
  const { items } = await call(`/orchestrator/runs/${run.id}/artifacts`);
  const diff = items.find((artifact) => artifact.type === "patch_diff");
  return diff ? (await fetch(diff.url)).text() : "";
}

async function showWaiting() {
  const { items } = await call("/orchestrator/runs?status=awaiting_approval&limit=100");
  const open = items.filter((run) => run.approval_status === "awaiting");
  // one that is shown already stays as it is, so that nobody's focus is lost while they read
  const shown = new Map([...$("waiting").querySelectorAll("article")].map((card) => [card.id, card]));
  const cards = await Promise.all(open.map(async (run) => shown.get(`run-${run.id}`) || card(run, await diffOf(run))));
  const before = [...$("waiting").querySelectorAll("article")].map((one) => one.id).join();
  if (!cards.length) put("waiting", make("p", "Nothing waits."));
  else if (before !== cards.map((one) => one.id).join()) put("waiting", ...cards);
}

function card(run, diff) {
  const made = make("article", undefined, { id: `run-${run.id}` });
  made.append(
    make("h3", `${run.service} on ${run.node}: ${run.summary}`),
    make("p", `${run.id}, asked for by ${run.requester}: ${run.instruction}`),
  );
  const digest = make("p", "Plan ");
  digest.append(make("code", run.plan_digest));
  made.append(digest, make("pre", diff || "The diff is not there.", { tabIndex: 0 }));
  made.querySelector("pre").setAttribute("aria-label", `Diff of ${run.id}`);
  const decisions = make("p");
  for (const [decision, text] of [["approved", "Approve"], ["rejected", "Reject"]]) {
    const button = make("button", text, { type: "button" });
    button.setAttribute("aria-label", `${text} ${run.id}`);
    button.onclick = () => act(button, async () => {
      const after = await call(`/orchestrator/runs/${run.id}/approvals`, { decision, plan_digest: run.plan_digest });
      $("main").focus();
      return `${run.id} was ${decision}: it is ${after.status}.`;
    });
    decisions.append(button, " ");
  }
  made.append(decisions);
  return made;
}

// Does what a button is for, once, and says how it went.
async function act(button, does) {
  button.disabled = true;
  try {
    say(await does());
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
  await show();
}

async function show() {
  if (!sessionStorage.getItem(KEY)) return;
  const done = await Promise.allSettled([showWaiting(), showFleet(), showStacks(), showReleases(), showRuns(), showQueue()]);
  const failed = done.find((one) => one.status === "rejected");
  if (failed) say(failed.reason.message);
  else if (done[1].value === "running") setTimeout(() => showFleet().then(showStacks).catch((error) => say(error.message)), 2000);
}

// Follows the hub's events, and shows everything again when something happened. EventSource cannot send a token.
async function follow() {
  following?.abort();
  const mine = (following = new AbortController());
  while (!mine.signal.aborted) {
    try {
      const answer = await fetch("/api/events", { headers: { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` }, signal: mine.signal });
      if (!answer.ok) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        if (part.value.includes("event: ")) await show();
      }
    } catch {
      if (mine.signal.aborted) return;
    }
    await new Promise((resolve) => setTimeout(resolve, BEGIN_AGAIN));
    await show();
  }
}

function forget() {
  sessionStorage.removeItem(KEY);
  following?.abort();
  $("login").hidden = false;
  $("who").hidden = true;
  document.querySelectorAll(".content").forEach((one) => one.replaceChildren());
  $("token").focus();
}

async function begin() {
  const known = Boolean(sessionStorage.getItem(KEY));
  $("login").hidden = known;
  $("who").hidden = !known;
  if (!known) return;
  say("");
  await show();
  if (sessionStorage.getItem(KEY)) follow();
}

$("login").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("token").value.trim());
  $("token").value = "";
  begin();
};
$("logout").onclick = forget;
$("refresh").onclick = () => act($("refresh"), async () => {
  await call("/api/refresh", {});
  return "The nodes are asked.";
});
begin();
