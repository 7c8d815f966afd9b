<?php
// The paths of nginx.conf, for PHP's built-in server: php -S 127.0.0.1:3000 -t public public/router.php
declare(strict_types=1);

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$script = ['/events' => 'sse.php', '/clients' => 'clients.php'][$path] ?? null;
if ($script === null) {
    return false; // a file of its own, or 404
}
require __DIR__ . '/' . $script;
