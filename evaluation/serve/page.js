"use strict";
// Videos are sent one after another; each has a line with its progress and, in the end, its report. Names and reasons are
// only ever set as text.
const list = document.getElementById("videos");
const drop = document.getElementById("drop");
const input = document.getElementById("file");
const report = document.getElementById("report");
const stages = ["starting", "looking at faces", "drawing the report"];
let sending = Promise.resolve();

function made(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

// What ends a line, turns its direction or cannot be seen has no say in how the page reads.
const plain = (name) => name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "\uFFFD");

function line(file) {
  const name = plain(file.name);
  const row = made("li", "");
  const says = made("span", "says", "waiting to be sent");
  const bar = document.createElement("progress");
  const doing = made("span", "do");
  const stop = made("button", "", "Cancel");
  stop.setAttribute("aria-label", `Cancel ${name}`);
  doing.append(stop);
  row.append(made("span", "name", name), says, doing, bar);
  list.prepend(row);
  return { file, name, row, says, bar, doing, stop, over: false };
}

function ended(video, text, tone) {
  video.over = true;
  video.says.textContent = text;
  video.row.classList.add(tone);
  video.bar.remove();
  video.doing.replaceChildren();
}

function send(video) {
  if (video.over) return Promise.resolve();
  return new Promise((sent) => {
    const request = new XMLHttpRequest();
    request.open("POST", "videos");
    request.setRequestHeader("X-Name", encodeURIComponent(video.file.name.toWellFormed?.() ?? video.file.name));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => {
      video.says.textContent = "sending";
      video.bar.max = event.total;
      video.bar.value = event.loaded;
    };
    request.onload = () => {
      if (request.status === 201) follow(video, JSON.parse(request.response).number);
      else ended(video, `Not taken: ${request.response}`, "failed");
      sent();
    };
    request.onerror = () => { ended(video, "The server does not answer, or broke the upload off.", "failed"); sent(); };
    request.onabort = () => { ended(video, "Cancelled.", "none"); sent(); };
    video.stop.onclick = () => request.abort();
    request.send(video.file);
  });
}

function follow(video, number) {
  const events = new EventSource(`videos/${number}/progress`);
  video.bar.removeAttribute("value");
  video.stop.onclick = () => {
    events.close();
    fetch(`videos/${number}`, { method: "DELETE" });
    ended(video, "Cancelled.", "none");
  };
  events.onmessage = (event) => {
    const now = JSON.parse(event.data);
    if (now.state === "waiting") {
      video.says.textContent = now.ahead === 1 ? "waiting, one video is before it" : now.ahead ? `waiting, ${now.ahead} videos are before it` : "waiting";
    } else if (now.state === "judging") {
      const share = now.total ? Math.min(now.done / now.total, 1) : null;
      video.says.textContent = stages[now.stage] + (share === null ? "" : `, ${Math.round(100 * share)} %`);
      if (share === null) video.bar.removeAttribute("value");
      else { video.bar.max = 1; video.bar.value = share; }
    } else {
      events.close();
      if (now.state === "done") finished(video, number, now);
      else ended(video, now.state === "refused" ? `Not judged: ${now.reason}.` : "Cancelled.", "failed");
    }
  };
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) ended(video, "The server does not know this video any more.", "failed");
  };
}

function finished(video, number, now) {
  ended(video, now.headline, now.tone);
  const address = `videos/${number}/report`;
  const show = made("button", "", "Report");
  show.setAttribute("aria-label", `Report on ${video.name}`);
  show.onclick = (event) => {
    list.querySelectorAll("button[aria-pressed]").forEach((other) => other.setAttribute("aria-pressed", other === show));
    report.src = address;
    report.hidden = false;
    if (event.isTrusted) report.scrollIntoView({ behavior: "smooth" }); // somebody asked for it
  };
  show.setAttribute("aria-pressed", "false");
  const keep = made("a", "", "Save");
  keep.href = address;
  keep.download = "report.html";
  video.doing.append(show, keep);
  if (report.hidden) show.click();
}

function take(files) {
  for (const file of files) {
    const video = line(file);
    if (file.size > input.dataset.megabytes * 1e6) {
      ended(video, `Not taken: larger than ${input.dataset.megabytes} MB.`, "failed");
      continue;
    }
    video.stop.onclick = () => ended(video, "Cancelled.", "none");
    sending = sending.then(() => send(video));
  }
}

input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take([...event.dataTransfer.files]);
});
