"use strict";
const element = (id) => document.getElementById(id);
const form = element("order");
let current = null; // the address of the last song

function complain(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

async function ask(address, options) {
  const answer = await fetch(address, options).catch(() => {
    throw new Error("the server does not answer");
  });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.status === 204 ? null : answer.json();
}

function forget() {
  if (current) fetch(current, { method: "DELETE", keepalive: true }).catch(() => {});
  current = null;
}

async function follow(address) {
  while (address === current) {
    const job = await ask(address);
    if (job.state === "failed") throw new Error(job.error);
    const done = job.state === "done" ? 1 : job.windows_done / job.windows;
    element("progress").value = done;
    element("state").textContent = job.state === "done"
      ? `${job.seconds.toFixed(1)} s of sound in ${job.wall_seconds.toFixed(1)} s`
      : `${job.state}: window ${job.windows_done} of ${job.windows}`;
    if (job.state === "done") return show(address, job);
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

function show(address, job) {
  const base = job.name.replace(/\.[^.]*$/, "") || "song";
  for (const link of document.querySelectorAll("a[data-format]")) {
    link.href = `${address}/sound.${link.dataset.format}`;
    link.download = `${base}.${link.dataset.format}`;
  }
  element("stems").href = `${address}/stems.zip`;
  element("stems").download = `${base}.zip`;
  element("stems").hidden = !job.stems.length;
  element("page").href = `${address}/report.html`;
  element("page").download = `${base}.html`;
  element("downloads").hidden = false;
  element("report").src = `${address}/report.html`;
  element("report").hidden = false;
}

// A choice of another instrument for each channel of a song, for the next time that it is rendered.
async function offerInstruments(tracks) {
  const { instruments } = await ask("/about");
  for (const channel of new Set(tracks.map((track) => track.channel))) {
    const own = tracks.filter((track) => track.channel === channel);
    const list = (values) => [...new Set(values)].filter(Boolean).join(", ");
    const names = list(own.map((track) => track.name));
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.name = "program";
    select.add(new Option("as it is", ""));
    for (const name of instruments) select.add(new Option(name, `${channel}=${name}`));
    label.append(list(own.map((track) => track.instrument)), names && ` (${names})`, " ", select);
    element("instruments").append(label);
  }
  element("instruments").hidden = false;
}

element("file").addEventListener("change", () => {
  element("instruments").replaceChildren(element("instruments").firstElementChild);
  element("instruments").hidden = true;
});

async function send(file) {
  forget();
  complain("");
  for (const id of ["result", "downloads", "report"]) element(id).hidden = true;
  const query = new URLSearchParams({ name: file.name });
  for (const [name, value] of new FormData(form)) {
    if (value && typeof value === "string") query.append(name, value);
  }
  const job = await ask(`/jobs?${query}`, { method: "POST", body: file });
  const address = `/jobs/${job.id}`;
  current = address;
  element("title").textContent = job.name;
  element("result").hidden = false;
  element("live").src = `${address}/sound.mp3`;
  element("live").play().catch(() => {});
  if (element("instruments").hidden) await offerInstruments(job.tracks);
  await follow(address);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const [file] = element("file").files;
  if (file) send(file).catch((error) => complain(error.message));
});
const drop = element("drop");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind.endsWith("enter") || kind.endsWith("over"));
  });
}
drop.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  element("file").files = event.dataTransfer.files;
  element("file").dispatchEvent(new Event("change"));
  form.requestSubmit();
});
addEventListener("pagehide", forget);
