<?php
// A stream of named events, as PHP does it: a loop that writes, flushes and sleeps, in a worker of its own.
//
// /sse.php?silent=1     writes nothing after its first event, for five minutes: PHP would never learn that its client has gone
// /sse.php?comments=1   writes a comment before each event
declare(strict_types=1);

$intervalMs = (int) (getenv('INTERVAL_MS') ?: 1000);
$count = (int) (getenv('COUNT') ?: PHP_INT_MAX >> 1);

// Nothing may stand between echo and the web server: neither compression nor a buffer from php.ini (output_buffering).
ini_set('zlib.output_compression', '0');
while (ob_get_level() > 0) {
    ob_end_clean();
}
set_time_limit(0);         // the time limit counts the worker's own time only, but a stream may have used it up
ignore_user_abort(false);  // a write to a client that has left ends the script

header('Content-Type: text/event-stream');
header('Cache-Control: no-cache');
header('X-Accel-Buffering: no'); // for the nginx between PHP-FPM and sse-proxy

// For clients.php: a file that is locked for as long as this stream lives, however it ends.
$folder = getenv('CLIENTS_DIR') ?: sys_get_temp_dir() . '/sse-clients';
@mkdir($folder, 0700, true);
$lock = fopen(tempnam($folder, 'stream-'), 'r');
flock($lock, LOCK_EX);

/** Hands what was written to the web server, and ends the script when that says that the client has gone. */
function send(string $text): void
{
    echo $text;
    flush();
    if (connection_aborted()) {
        exit;
    }
}

/** Sleeps until the next event. PHP learns of a client's leaving only when it writes: so it writes twice a second. */
function pause(int $ms): void
{
    for (; $ms > 500; $ms -= 500) {
        usleep(500_000);
        send(":\n\n");
    }
    usleep($ms * 1000);
}

// The first output sends the response head.
send("event: connection\ndata: open\n\n");

if (isset($_GET['silent'])) {
    sleep(300);
    exit;
}

$number = (int) ($_SERVER['HTTP_LAST_EVENT_ID'] ?? 0);
for ($last = $number + $count; $number < $last;) {
    pause($intervalMs);
    $number++;
    if (isset($_GET['comments'])) {
        send(": before $number\n\n");
    }
    send("id: $number\nevent: tick\ndata: " . json_encode(['number' => $number]) . "\n\n");
}
