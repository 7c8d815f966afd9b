import java.net.InetSocketAddress;

import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;
import org.springframework.web.servlet.DispatcherServlet;
import org.springframework.web.servlet.mvc.method.annotation.RequestMappingHandlerAdapter;
import org.springframework.web.servlet.mvc.method.annotation.RequestMappingHandlerMapping;

/** Runs the controller in Spring MVC on Jetty, as Spring Boot would do by itself. PORT=0 takes a free port. */
public final class Server {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "3000"));
        org.eclipse.jetty.server.Server server =
                new org.eclipse.jetty.server.Server(new InetSocketAddress("127.0.0.1", port));

        AnnotationConfigWebApplicationContext context = new AnnotationConfigWebApplicationContext();
        // What @EnableWebMvc brings and this needs; Debian's Spring 4.3 cannot read @Configuration classes on this Java.
        context.register(RequestMappingHandlerMapping.class, RequestMappingHandlerAdapter.class, StreamController.class);
        ServletHolder dispatcher = new ServletHolder(new DispatcherServlet(context));
        dispatcher.setAsyncSupported(true); // in a web.xml: <async-supported>
        ServletContextHandler handler = new ServletContextHandler();
        handler.addServlet(dispatcher, "/*");
        server.setHandler(handler);
        server.setStopAtShutdown(true);
        dispatcher.setInitOrder(1); // at the start, so that the first client does not wait for it

        server.start();
        ServerConnector connector = (ServerConnector) server.getConnectors()[0];
        System.out.println("listening on 127.0.0.1:" + connector.getLocalPort());
        server.join();
    }
}
