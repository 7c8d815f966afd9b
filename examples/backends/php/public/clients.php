<?php
// How many streams are open: how many of the files that sse.php locks are still locked. The others are what killed workers
// left behind, and are removed.
declare(strict_types=1);

$folder = getenv('CLIENTS_DIR') ?: sys_get_temp_dir() . '/sse-clients';
$open = 0;
foreach (glob("$folder/stream-*") ?: [] as $path) {
    $file = fopen($path, 'r');
    if (flock($file, LOCK_EX | LOCK_NB)) {
        unlink($path);
    } else {
        $open++;
    }
}
header('Content-Type: application/json');
echo json_encode($open);
