// Abort does not wait for the page's socket: it is a request of its own, sent again until it is answered.
window.lauepilotAbort = async () => {
  const button = document.getElementById("abort"), said = document.getElementById("abort-said");
  const say = (text) => { said.textContent = text; said.classList.toggle("shown", Boolean(text)); };
  const end = Date.now() + 20000;
  button.classList.add("sent");
  while (Date.now() < end) {
    try {
      const answer = await fetch("/abort", { method: "POST", keepalive: true });
      const text = await answer.text();
      button.classList.remove("sent");
      if (answer.ok) { say(""); document.getElementById("abort").dataset.answer = text; return; }
      say(`Abort was refused: ${text} Use the emergency stop.`);
      return;
    } catch {
      say("ABORT NOT YET SENT: no connection. Trying again. If anything moves, use the emergency stop.");
      await new Promise((done) => setTimeout(done, 150));
    }
  }
  button.classList.remove("sent");
  say("ABORT NOT SENT: no connection to lauepilot. Use the emergency stop.");
};
// What is shown is old once the server's beat stops.
(() => {
  let last = Date.now(), beat = "";
  setInterval(() => {
    const now = document.getElementById("beat")?.textContent ?? "";
    if (now !== beat) { beat = now; last = Date.now(); }
    const stale = Date.now() - last > 3500;
    document.body.classList.toggle("stale", stale);
    document.getElementById("old")?.classList.toggle("shown", stale);
  }, 500);
})();
